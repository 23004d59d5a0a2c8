"""The files below a folder, through links but never in circles."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pattlite_dist.errors import UserError
from pattlite_dist.shards.sources.spellings import is_litter, shown

_MOST_FOLDERS = 100_000  # far beyond any data set: a home folder, or a maze of links


def walk(root: Path, visited: list[str]) -> Iterator[tuple[str, "os.DirEntry[str]"]]:
    """Every file below `root`, and every broken link, which reading will refuse.

    Links to folders are followed, except to a folder that contains them. The names of folders
    are added to `visited`.
    """
    todo: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    folders = 0
    while todo:
        prefix, above = todo.pop()
        folders += 1
        if folders > _MOST_FOLDERS:
            raise UserError(
                f"{shown(str(root))} contains more than {_MOST_FOLDERS} folders; give the folder "
                "of the data set itself"
            )
        try:
            here = (root / prefix).stat()
            key = (here.st_dev, here.st_ino)
            if key in above:
                continue
            visited.append(prefix[:-1])
            with os.scandir(root / prefix) as entries:
                for entry in entries:
                    name, kind = prefix + entry.name, _kind(entry)
                    if is_litter(entry.name):
                        continue
                    if kind == "folder":
                        todo.append((f"{name}/", above | {key}))
                    elif kind:
                        yield name, entry
        except OSError as error:
            raise unreadable(root / prefix, error) from error


def _kind(entry: "os.DirEntry[str]") -> Literal["folder", "file", "nowhere", ""]:
    """What an entry is or points to; empty for pipes, devices and the like."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
        return "" if not entry.is_symlink() or Path(entry.path).exists() else "nowhere"
    except OSError:  # a link to itself
        return "nowhere"


def facts_of(entry: "os.DirEntry[str]") -> tuple[int, int]:
    """Size in bytes and modification time in nanoseconds; -1 if it is gone."""
    with contextlib.suppress(OSError):
        info = entry.stat()
        return info.st_size, info.st_mtime_ns
    return -1, -1


def line_of(error: Exception) -> str:
    """The first line of an error, escaped."""
    return shown((str(error).splitlines() or [type(error).__name__])[0])


def unreadable(path: Path, error: OSError) -> UserError:
    """The error for a path that the system refuses."""
    return UserError(
        f"cannot read {shown(str(path))}: {error.strerror or line_of(error)}; check the path and "
        "its permissions"
    )
