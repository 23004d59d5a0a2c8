"""A home folder for libraries where the user has none, as in a container.

A container may run as any user id, which has no entry in `passwd` then, and on a root that is only
read. Matplotlib complains of that in each process, W&B ends with a traceback, and what they keep
lands in the current folder.
"""

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator, MutableMapping
from pathlib import Path

from pattlite_dist.errors import UserError

_found: list[Path] = []


def provide_home(env: MutableMapping[str, str] = os.environ) -> None:
    """Have libraries keep their files in the folder for temporary ones, if not in a home folder.

    To be called before they are imported. A home that can only be read stays the home, as logins
    may lie there; where there is none at all, the folder takes its place.
    """
    home = _home(env)
    if home is not None and _may_write(home):
        return
    folder = _private_folder()
    if folder is None:
        return
    _found[:] = [folder]
    if home is None:
        env["HOME"] = str(folder)
    env.setdefault("XDG_CACHE_HOME", str(folder / ".cache"))
    env.setdefault("MPLCONFIGDIR", str(folder / "matplotlib"))


def instead_of_home() -> Path | None:
    """The folder that takes the place of a home, if `provide_home` has had to find one."""
    return _found[0] if _found else None


@contextlib.contextmanager
def temporary_files() -> Iterator[None]:
    """Say what to do where there is no folder for temporary files.

    Raises:
        UserError: there is none.
    """
    try:
        yield
    except FileNotFoundError as error:
        if "temporary directory" not in str(error.strerror):
            raise
        raise UserError(
            "temporary files can be written nowhere, not in /tmp either; set TMPDIR to a folder "
            "where they can"
        ) from error


def _home(env: MutableMapping[str, str]) -> Path | None:
    if env.get("HOME"):
        return Path(env["HOME"])
    import pwd

    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return None


def _may_write(folder: Path) -> bool:
    """Whether a folder can be written into, or made."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return os.access(folder, os.W_OK | os.X_OK)


def _private_folder() -> Path | None:
    """A folder in which nobody else can have put anything; None if there is none."""
    try:
        folder = Path(tempfile.gettempdir()) / f"pattlite-home-{os.getuid()}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir(0o700)
        found = folder.lstat()
    except OSError:
        return None
    whole = stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o077
    return folder if whole and found.st_uid == os.getuid() else None
