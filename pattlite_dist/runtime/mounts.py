"""Which file system a folder is on, and whether other machines share it."""

import re
from pathlib import Path

_TABLE = Path("/proc/self/mountinfo")
_SHARED = re.compile(
    r"^(?:(?:nfs|smb|pnfs|afs|gfs|gpfs|ocfs)\d*|cifs|lustre\w*|ceph|beegfs\w*|bgfs|panfs|wekafs|dvs|"
    r"coda|orangefs|pvfs2|acfs|vxfs|quobyte|moosefs|"
    r"fuse\.(?!fuse-overlayfs|squashfuse|ntfs|ext|gocryptfs|encfs|bindfs|unionfs|mergerfs)\S+)$"
)


def kind_of(folder: Path, table: str) -> str | None:
    """The type of the file system that a folder is on; None if the table does not say.

    Args:
        folder: without links; need not exist.
        table: the lines of `/proc/self/mountinfo` (proc(5)).
    """
    found, longest = None, -1
    for line in table.splitlines():
        place, dash, kind = line.partition(" - ")
        fields = place.split(" ")
        if not dash or len(fields) < 5:
            continue
        # Blanks, tabs, line breaks and backslashes are written in octal.
        point = re.sub(r"\\([0-7]{3})", lambda digits: chr(int(digits[1], 8)), fields[4])
        if len(point) >= longest and folder.is_relative_to(point):  # a later one covers it
            found, longest = kind.split(" ", 1)[0], len(point)
    return found


def shared_kind(folder: Path) -> str | None:
    """The type of the file system that a folder is on, if other machines may write to it too."""
    try:
        kind = kind_of(folder.resolve(), _TABLE.read_text(errors="surrogateescape"))
    except OSError:
        return None
    return kind if kind is not None and _SHARED.match(kind) else None
