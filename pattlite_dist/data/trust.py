"""Whose a cache's folder is, and which of its entries nobody else can have written.

Whoever can write an entry decides what the runs that read it train on.
"""

import contextlib
import os
import socket
import stat
import tempfile
from pathlib import Path

from pattlite_dist.errors import UserError
from pattlite_dist.runtime.mounts import shared_kind
from pattlite_dist.runtime.notes import note

PRIVATE_FOLDER, PRIVATE_FILE = 0o700, 0o600
_OTHERS_WRITE, _ALL_WRITE = 0o022, 0o002


def default_cache() -> Path:
    """The cache in the job's temporary folder: the scheduler's if it has one, else the system's.

    Raises:
        UserError: something of this name belongs to another user, or is a link.
    """
    base = os.environ.get("SLURM_TMPDIR") or tempfile.gettempdir()
    path = Path(base) / f"pattlite-cache-{os.getuid()}"
    try:
        found = path.lstat()
    except OSError:  # if it cannot be used, that will show
        return path
    if found.st_uid != os.getuid():
        raise UserError(f"the cache folder {path} belongs to another user; set data.cache")
    if not stat.S_ISDIR(found.st_mode):
        raise UserError(f"the cache folder {path} is a link or a file; remove it or set data.cache")
    if found.st_mode & 0o077:
        with contextlib.suppress(OSError):  # a disk that is only read
            path.chmod(PRIVATE_FOLDER)
    return path


def part_of_this_node(folder: Path) -> Path:
    """Where this node's entries are in a cache's folder: a folder of its own if nodes share it.

    A node that removes an entry would take the pages from under another's maps, which ends what
    reads them without a word. A folder that this user can only read is used as it is.
    """
    kind = shared_kind(folder)
    if kind is None or (folder.exists() and not os.access(folder, os.W_OK)):
        return folder
    part = folder / socket.gethostname()
    note(
        f"the cache {folder} is on {kind}, which other nodes may share: this one uses {part.name} "
        "in it; a disk of the node (data.cache) is faster",
        once=("shared", folder),
    )
    return part


def refuse_planted(folder: Path) -> None:
    """Check that a cache's folder is not where anybody may have put it.

    Raises:
        UserError: it is another user's link, or another user's folder in one that all may write,
            such as /tmp.
    """
    try:
        found = folder.lstat()
        anywhere = folder.parent.stat().st_mode & _ALL_WRITE
    except OSError:
        return
    if found.st_uid not in (os.getuid(), 0) and (anywhere or stat.S_ISLNK(found.st_mode)):
        raise UserError(
            f"another user has put the cache folder {folder} there, and could put other pixels "
            "into it; set data.cache to another one"
        )


def trusted(found: os.stat_result, folder: Path) -> bool:
    """Whether only this user, or the only one who can write in the folder, has written a file.

    Args:
        found: about the file, from an open descriptor.
        folder: that it is in.
    """
    owners = {os.getuid(), 0}
    whole = folder.stat()
    if not whole.st_mode & _OTHERS_WRITE:
        owners.add(whole.st_uid)
    return found.st_uid in owners
