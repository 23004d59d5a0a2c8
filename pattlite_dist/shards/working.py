"""The working folder for unfinished files, held by one process at a time."""

import contextlib
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import Timeout

from pattlite_dist.errors import UserError
from pattlite_dist.runtime.locks import file_lock
from pattlite_dist.shards.target import Target

PLAN_NAME = "plan.json"  # while it exists, a conversion can resume
_LOCK_NAME = "lock"
_UNNOTICED = "a second process that writes these shards would not be noticed, so start none"


def working_folder(target: Target, named: Path | None) -> Path:
    """Where unfinished files of a target are kept: inside the folder the user names, if any.

    Never that folder itself, because everything in a working folder may be removed.
    """
    if named is None:
        return target.work()
    place = hashlib.sha256(str(target.work().absolute()).encode()).hexdigest()[:16]
    return named / f"pattlite-creating-{place}"


@contextlib.contextmanager
def working(target: Target, folder: Path) -> Iterator[None]:
    """Hold a target and its working folder; without a plan, the latter is removed afterwards.

    Raises:
        UserError: another process holds the target, or the folder is not writable.
    """
    own = target.work()  # always holds the lock, where every process looks for it
    folders = dict.fromkeys([own, folder])
    missing = [path for each in folders for path in (each, *each.parents) if not path.exists()]
    with contextlib.ExitStack() as held:
        try:
            for each in folders:
                each.mkdir(parents=True, exist_ok=True)
            held.enter_context(file_lock(own / _LOCK_NAME, _UNNOTICED, timeout=0))
        except Timeout:
            raise UserError(
                f"another process is writing shards into {target.shown}; wait for it, or choose "
                "another folder"
            ) from None
        except OSError as error:
            _remove_empty(missing)
            where = error.filename or folder
            raise UserError(
                f"cannot write {where}: {error.strerror or error}; free some space or choose a "
                "writable folder"
            ) from error
        try:
            yield
        finally:
            if not (folder / PLAN_NAME).exists():
                for each in folders:
                    shutil.rmtree(each, ignore_errors=True)
                _remove_empty(missing)


def clear(folder: Path) -> None:
    """Remove what an earlier conversion left in a held working folder, starting with its plan."""
    (folder / PLAN_NAME).unlink(missing_ok=True)
    for path in folder.iterdir():
        if path.name != _LOCK_NAME:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _remove_empty(folders: list[Path]) -> None:
    for path in folders:  # inner ones first
        with contextlib.suppress(OSError):  # not empty
            path.rmdir()
