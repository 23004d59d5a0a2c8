"""One process at a time trains in a run folder; a second is refused with the name of the first."""

import contextlib
import fcntl
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pattlite_dist.errors import UserError
from pattlite_dist.runtime.locks import go_without, is_held, is_unsupported
from pattlite_dist.runtime.notes import note
from pattlite_dist.tracking.claim import claim, is_older, look_out, me, withdraw
from pattlite_dist.tracking.history import job_id

LOCK_NAME = "run.lock"
_OWN_JOB_SECONDS = 300.0  # the job's previous start may still be ending on another node
_CLAIM_SECONDS = 3.0  # until it is asked to, as it may not know that it has been replaced
_ANY_SECONDS = 3.0  # a process that was just killed may still be ending
_UNNOTICED = "a second process that trains this run would not be noticed, so start none"


class Busy(UserError):
    """Another process trains in the folder and owns its contents."""


class RunLock:
    """Holds a run folder from `acquire` to `release`, or until the process ends for any reason.

    A POSIX record lock: unlike with flock, forked loader processes do not inherit it, so it ends
    with its process; and it works across the nodes of NFS and Lustre. On a file system without
    locks, the file merely names the last holder, and nobody is refused, which is said.

    Args:
        run: folder.
    """

    def __init__(self, run: Path) -> None:
        self.path = run / LOCK_NAME
        self._descriptor: int | None = None
        self._over = threading.Event()

    def acquire(self) -> None:
        """Take the folder.

        Raises:
            Busy: another process holds it; the message names its job, host and process.
            UserError: the folder is not writable, or locking fails.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(
                f"cannot write {self.path}: {error.strerror}; choose a folder that can be written"
            ) from error
        begin = time.monotonic()
        claimed = False
        while not self._try():
            holder = self.holder()
            own = holder.get("job") is not None and holder.get("job") == job_id()
            waited = time.monotonic() - begin
            if waited > _CLAIM_SECONDS and not claimed and is_older(holder):
                claimed = True
                claim(self.path.parent)
                note(
                    f"{self.path.parent} is still trained by an earlier start of this "
                    f"{describe(holder)}; it is asked to save and end"
                )
            if waited > (_OWN_JOB_SECONDS if own else _ANY_SECONDS):
                os.close(self._descriptor)
                self._descriptor = None
                raise Busy(
                    f"{self.path.parent} is being trained by {describe(holder)}; wait for it, "
                    "cancel it, or give this run another name"
                )
            time.sleep(0.1)
        withdraw(self.path.parent)
        holder = {**me(), "since": round(time.time())}
        with contextlib.suppress(OSError):  # a full disk: the holder stays unnamed
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, json.dumps(holder).encode(), 0)

    def on_claim(self, work: Callable[[], None]) -> None:
        """Have `work` called, in a thread, once a newer start of this job asks for the folder."""
        if self.held:
            look_out(self.path.parent, self._over, work)

    @property
    def held(self) -> bool:
        """Whether this process holds the folder."""
        return self._descriptor is not None

    def release(self) -> None:
        """Release the folder."""
        self._over.set()
        if self._descriptor is not None:
            with contextlib.suppress(OSError):  # the holder stays named, as after a kill
                os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None

    def holder(self) -> dict[str, Any]:
        """What the file says about the last holder; empty if nothing."""
        if self._descriptor is None:
            return {}
        # Not opened again: closing a file releases all of the process's locks on it.
        with contextlib.suppress(OSError, ValueError):
            content = json.loads(os.pread(self._descriptor, 4096, 0))
            if isinstance(content, dict):
                return content
        return {}

    def _try(self) -> bool:
        assert self._descriptor is not None
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if is_held(error):
                return False
            if not is_unsupported(error):
                os.close(self._descriptor)
                self._descriptor = None
                raise UserError(
                    f"cannot lock {self.path}: {error.strerror}; try again, or set runs to a "
                    "folder on another disk"
                ) from error
            go_without(self.path.parent, error, _UNNOTICED)
        return True


def taken(run: Path) -> bool | None:
    """Whether a process trains in a folder; None if locks are unsupported, or there never was one.

    A lock file that belongs to another user and cannot be opened counts as taken.
    """
    try:
        with (run / LOCK_NAME).open("r+b") as stream:
            fcntl.lockf(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except PermissionError:  # also if it is locked: EACCES on some systems
        return True
    except OSError as error:
        return True if is_held(error) else None
    return False


def describe(holder: dict[str, Any]) -> str:
    """A holder in words."""
    if not holder:
        return "another process"
    process = f"process {holder.get('pid')} on {holder.get('host')}"
    return f"job {holder['job']} ({process})" if holder.get("job") else process
