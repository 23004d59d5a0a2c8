"""PyTorch's loader processes and their memory, lists of tensors, and a name in state dicts."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

from pattlite_dist.compat.need import changed, find, find_function

_NAME = "torch"
_TIMED_OUT = "DataLoader timed out"
COMPILED = "_orig_mod"  # where `torch.compile` keeps what it wraps, in a state dict as well


def check() -> None:
    """Check that everything training uses exists, before a run is modified.

    Raises:
        UserError: it does not; names the installed and the supported versions.
    """
    from torch.utils.data import dataloader

    for name in ("_foreach_copy_", "_foreach_lerp_"):
        find_function(_NAME, torch, name)
    find_function(_NAME, torch.UntypedStorage, "_new_shared_fd_cpu")
    loader: DataLoader[Any] = DataLoader([0])  # type: ignore[arg-type]
    if running_iterator(loader) is not None:
        raise changed(_NAME, "`DataLoader._iterator` that is None before a run")
    iterator = find(_NAME, dataloader, "_MultiProcessingDataLoaderIter")
    find_function(_NAME, iterator, "_shutdown_workers")
    # An instance would have to start processes; the code lists what it assigns.
    if "_workers" not in find(_NAME, iterator, "__init__.__code__.co_names"):
        raise changed(_NAME, "`_MultiProcessingDataLoaderIter._workers`")
    wait = find_function(_NAME, iterator, "_get_data")
    if not any(_TIMED_OUT in str(text) for text in wait.__code__.co_consts):
        raise changed(_NAME, f"`_MultiProcessingDataLoaderIter._get_data` that says `{_TIMED_OUT}`")


def copy_all(to: Sequence[torch.Tensor], given: Sequence[torch.Tensor]) -> None:
    """Copy each tensor into its counterpart: on a GPU, in a few launches for all of them."""
    find_function(_NAME, torch, "_foreach_copy_")
    torch._foreach_copy_(list(to), list(given))


def move_all(to: Sequence[torch.Tensor], given: Sequence[torch.Tensor], share: float) -> None:
    """Move each tensor a share of the way to its counterpart, likewise."""
    find_function(_NAME, torch, "_foreach_lerp_")
    torch._foreach_lerp_(list(to), list(given), share)


def running_iterator(loader: DataLoader[Any]) -> Any:
    """The iterator whose loader processes persist across epochs; None if there is none."""
    return find(_NAME, loader, "_iterator")


def timed_out(error: RuntimeError) -> bool:
    """Whether a loader's `timeout` has passed without a batch, which may still come."""
    return str(error).startswith(_TIMED_OUT)


def forget_iterator(loader: DataLoader[Any]) -> None:
    """Make the loader start new processes in its next epoch."""
    find(_NAME, loader, "_iterator")
    loader._iterator = None


def loader_processes(iterator: Any) -> list[Any]:
    """The processes of a loader's iterator."""
    found: list[Any] = find(_NAME, iterator, "_workers")
    return found


def shut_down(iterator: Any) -> None:
    """Ask the processes of a loader's iterator to exit."""
    find(_NAME, iterator, "_shutdown_workers")()


def move_into(descriptor: int, tensor: torch.Tensor) -> None:
    """Move a tensor's values into memory that processes share, and let it keep them there.

    Args:
        descriptor: of that memory, of the tensor's size in bytes; may be closed afterwards.
        tensor: on the CPU, not empty.

    Raises:
        RuntimeError: the memory cannot be mapped.
    """
    values = tensor.detach().contiguous()
    storage = torch.UntypedStorage._new_shared_fd_cpu(  # type: ignore[attr-defined]
        descriptor, values.nbytes
    )
    with torch.no_grad():
        tensor.set_(storage, 0, values.shape, values.stride()).copy_(values)
