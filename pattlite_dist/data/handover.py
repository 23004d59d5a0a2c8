"""How a loader process hands a batch over: in memory that it shares with its rank.

PyTorch copies a batch there in a thread, whose error ends nowhere: the rank would wait for ever.
Here the loader process does so itself, and passes on that there is no room. PyTorch's memory has a
name in /dev/shm for a moment, and keeps it if the process is killed then: the next runs on that
machine have a batch less room each time. Linux has memory without a name.
"""

import os
import time
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch.utils.data import get_worker_info

from pattlite_dist.compat.torch import move_into
from pattlite_dist.errors import UserError

B = TypeVar("B", bound=Mapping[str, object])
_FOLDER = "/dev/shm"
_PATIENCE = 20.0  # seconds for others to make room
_PAUSE = 0.1
_CURE = "start a container with --shm-size=2g or --ipc=host, or set data.workers=0"


def cannot_start(error: OSError) -> UserError:
    """What to tell if loader processes, or the locks they share with their rank, cannot be made.

    The locks are in shared memory, too.
    """
    return UserError(f"cannot start loader processes ({error.strerror or error}); {_CURE}")


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
            _move(tensor)
            return
        except (RuntimeError, OSError) as error:
            if time.monotonic() > deadline:
                reason = str(error).splitlines()[0].rpartition(": ")[2]
                raise UserError(
                    f"a loader process cannot hand over its batch in shared memory: {reason}; "
                    f"{_room()}; {_CURE}"
                ) from error
        time.sleep(_PAUSE)


def _move(tensor: torch.Tensor) -> None:
    if not tensor.nbytes:
        return
    try:
        memory = os.memfd_create("batch")
    except (AttributeError, OSError):  # another system, or a sandbox that has none
        tensor.share_memory_()  # type: ignore[no-untyped-call]
        return
    try:
        os.posix_fallocate(memory, 0, tensor.nbytes)  # else no room would be a bus error
        move_into(memory, tensor)
    finally:
        os.close(memory)


def _room() -> str:
    try:
        found = os.statvfs(_FOLDER)
    except OSError:
        return f"there is no {_FOLDER}"
    whole, free = (found.f_frsize * blocks / 1e6 for blocks in (found.f_blocks, found.f_bavail))
    return f"{_FOLDER} has {whole:,.0f} MB, of which {free:,.0f} MB are free"
