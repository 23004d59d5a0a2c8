"""Work beside training: what is saved is copied at the step, and written by a thread."""

import copy
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from pattlite_dist.errors import UserError

Then = Callable[[UserError | None], None]


def _nothing(failure: UserError | None) -> None:
    """Nothing depends on the outcome."""


class Order(NamedTuple):
    """How a checkpoint is to be written.

    Attributes:
        beside: by a thread, while training goes on; its content is copied first.
        then: called with the failure, if any, as soon as the file is whole or has failed; by that
            thread.
    """

    beside: bool = False
    then: Then = _nothing


class Beside:
    """One piece of work at a time, in a thread of its own."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether it is not done yet."""
        return self._thread is not None and self._thread.is_alive()

    def begin(self, work: Callable[[], None]) -> None:
        """Start, once the work before is done."""
        self.wait()

        def run() -> None:
            try:
                work()
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=run, name="pattlite-save", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return when it is done, and raise what it raised."""
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error


def copied(content: Any) -> Any:
    """A copy on the CPU that later steps do not change; what is in it twice is copied once.

    A GPU's tensors are copied into page-locked memory, at the full speed of its bus.
    """
    tensors = list(_tensors(content))
    copies: dict[int, Any] = {id(tensor): _copy(tensor) for tensor in tensors}
    if any(tensor.is_cuda for tensor in tensors):
        torch.cuda.synchronize()
    return copy.deepcopy(content, copies)


def _tensors(content: Any) -> Iterator[torch.Tensor]:
    if isinstance(content, torch.Tensor):
        yield content
    elif isinstance(content, dict):
        for value in content.values():
            yield from _tensors(value)
    elif isinstance(content, list | tuple):
        for value in content:
            yield from _tensors(value)


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.is_cuda:
        return tensor.detach().clone()
    host = torch.empty_like(tensor, device="cpu").pin_memory()
    return host.copy_(tensor.detach(), non_blocking=True)
