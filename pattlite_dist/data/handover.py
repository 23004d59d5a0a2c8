"""How a loader process hands a batch over: in shared memory, which may be small, or missing.

PyTorch copies a batch there in a thread, whose error ends nowhere: the rank would wait for ever.
Here the loader process does so itself, and passes on that there is no room.
"""

import multiprocessing
import os
import time
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch.utils.data import get_worker_info

from pattlite_dist.errors import UserError

B = TypeVar("B", bound=Mapping[str, object])
_FOLDER = "/dev/shm"
_PATIENCE = 20.0  # seconds for others to make room
_PAUSE = 0.1
_CURE = "start a container with --shm-size=2g or --ipc=host, or set data.workers=0"


def check_processes(context: Any) -> None:
    """Check that loader processes and their rank can share locks, which are in shared memory too.

    Args:
        context: of multiprocessing; None stands for the default one.

    Raises:
        UserError: they cannot.
    """
    try:
        (context or multiprocessing).Lock()
    except OSError as error:
        raise UserError(
            f"cannot start loader processes ({error.strerror or error}); {_CURE}"
        ) from error


def ready_to_send(batch: B, patience: float = _PATIENCE) -> B:
    """The batch, its tensors in shared memory if this is a loader process.

    Args:
        batch: made by this process.
        patience: seconds to wait for room, which the batches that the rank has used leave.

    Raises:
        UserError: there is no room.
    """
    if get_worker_info() is None:
        return batch
    deadline = time.monotonic() + patience
    for value in batch.values():
        if isinstance(value, torch.Tensor):
            _share(value, deadline)
    return batch


def _share(tensor: torch.Tensor, deadline: float) -> None:
    while True:
        try:
            tensor.share_memory_()  # type: ignore[no-untyped-call]
            return
        except (RuntimeError, OSError) as error:
            if time.monotonic() > deadline:
                reason = str(error).splitlines()[0].rpartition(": ")[2]
                raise UserError(
                    f"a loader process cannot hand over its batch in shared memory: {_room()} "
                    f"({reason}); {_CURE}"
                ) from error
        time.sleep(_PAUSE)


def _room() -> str:
    try:
        found = os.statvfs(_FOLDER)
    except OSError:
        return f"there is no {_FOLDER}"
    whole, free = (found.f_frsize * blocks / 1e6 for blocks in (found.f_blocks, found.f_bavail))
    return f"{_FOLDER} has {whole:,.0f} MB, of which {free:,.0f} MB are free"
