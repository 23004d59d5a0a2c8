"""Locks between processes, on file systems that have them; elsewhere, work goes on without.

NFS without its lock daemon, DVS, autofs and some FUSE file systems refuse to lock a file, each with
an error of its own. That must neither end a run nor pass for a lock that another process holds.
"""

import contextlib
import errno
import fcntl
import multiprocessing
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from pattlite_dist.runtime.notes import note
from pattlite_dist.runtime.world import detect

_HELD = {errno.EACCES, errno.EAGAIN}
_ENOTSUPP = 524  # of Linux's kernel, which has no name for users
_UNSUPPORTED = {
    errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.ENOTTY,
    _ENOTSUPP,
}  # fmt: skip
_known: dict[Path, bool] = {}


def is_held(error: OSError) -> bool:
    """Whether locking failed because another process holds the lock."""
    return error.errno in _HELD


def is_unsupported(error: OSError) -> bool:
    """Whether locking failed because the file system has no locks."""
    return error.errno in _UNSUPPORTED


def go_without(folder: Path, error: OSError, meaning: str) -> None:
    """Say once, on the first rank, that a folder's file system has no locks.

    Args:
        folder: of the lock.
        error: of the attempt.
        meaning: what follows from it.
    """
    if detect().main and multiprocessing.parent_process() is None:
        reason = "not supported" if error.errno == _ENOTSUPP else os.strerror(error.errno or 0)
        told = f"{folder}: this file system has no locks ({reason}); {meaning}"
        note(told, once=("locks", folder))


def has_locks(folder: Path, meaning: str) -> bool:
    """Whether files in a folder can be locked; says so if not.

    A file of this process's own is tried: filelock takes most of these errors for a lock that is
    held, and would wait for ever.

    Args:
        folder: exists.
        meaning: see `go_without`.

    Raises:
        OSError: the folder cannot be written.
    """
    if folder not in _known:
        with tempfile.TemporaryFile(dir=folder) as stream:
            try:
                fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                _known[folder] = not is_unsupported(error)
                if is_unsupported(error):
                    go_without(folder, error, meaning)
            else:
                _known[folder] = True
    return _known[folder]


@contextlib.contextmanager
def file_lock(path: Path, meaning: str, timeout: float = -1) -> Iterator[bool]:
    """Hold a lock file, if the file system has locks; yields whether it does.

    Args:
        path: of the lock file, in a folder that exists.
        meaning: what follows if there are no locks.
        timeout: seconds to wait for another process; -1 waits until it ends.

    Raises:
        filelock.Timeout: another process holds it.
        OSError: it cannot be written.
    """
    if not has_locks(path.parent, meaning):
        yield False
        return
    lock = FileLock(path, timeout=timeout)
    lock.acquire()
    try:
        yield True
    finally:
        lock.release()
