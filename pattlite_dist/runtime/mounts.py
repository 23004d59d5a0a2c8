"""Which file system a folder is on, whether other machines share it, and whether it is memory."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_TABLE = Path("/proc/self/mountinfo")
_SHARED = re.compile(
    r"^(?:(?:nfs|smb|pnfs|afs|gfs|gpfs|ocfs)\d*|cifs|lustre\w*|ceph|beegfs\w*|bgfs|panfs|wekafs|dvs|"
    r"coda|orangefs|pvfs2|acfs|vxfs|quobyte|moosefs|"
    r"fuse\.(?!fuse-overlayfs|squashfuse|ntfs|ext|gocryptfs|encfs|bindfs|unionfs|mergerfs)\S+)$"
)


class Mount(NamedTuple):
    """A line of `/proc/self/mountinfo` (proc(5)).

    Attributes:
        root: the folder of the file system that is seen at `point`.
        kind: type of the file system.
        options: of the file system, among them the controllers of a control group's.
    """

    root: str
    point: str
    kind: str
    options: list[str]


def mounts(table: str) -> Iterator[Mount]:
    """The lines of `/proc/self/mountinfo`, in their order; damaged ones are left out."""
    for line in table.splitlines():
        place, dash, rest = line.partition(" - ")
        fields, kind = place.split(" "), rest.split(" ")
        if not dash or len(fields) < 5:
            continue
        # Blanks, tabs, line breaks and backslashes are written in octal.
        root, point = (
            re.sub(r"\\([0-7]{3})", lambda digits: chr(int(digits[1], 8)), text)
            for text in fields[3:5]
        )
        yield Mount(root, point, kind[0], kind[-1].split(","))


def kind_of(folder: Path, table: str) -> str | None:
    """The type of the file system that a folder is on; None if the table does not say.

    Args:
        folder: without links; need not exist.
        table: the lines of `/proc/self/mountinfo`.
    """
    found, longest = None, -1
    for mount in mounts(table):
        point = mount.point
        if len(point) >= longest and folder.is_relative_to(point):  # a later one covers it
            found, longest = mount.kind, len(point)
    return found


def kind_here(folder: Path) -> str | None:
    """The type of the file system that a folder is on; None if it cannot be told."""
    try:
        return kind_of(folder.resolve(), _TABLE.read_text(errors="surrogateescape"))
    except OSError:
        return None


def shared_kind(folder: Path) -> str | None:
    """The type of the file system that a folder is on, if other machines may write to it too."""
    kind = kind_here(folder)
    return kind if kind is not None and _SHARED.match(kind) else None


def in_memory(folder: Path) -> bool:
    """Whether what is written into a folder takes memory."""
    return kind_here(folder) in ("tmpfs", "ramfs")
