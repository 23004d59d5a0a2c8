"""The files of a data set, in a folder or in a .zip, which is read without unpacking it."""

import contextlib
import hashlib
import os
import stat
import struct
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from pattlite_dist.errors import UserError
from pattlite_dist.shards.sources.base import refusal, refusing
from pattlite_dist.shards.sources.csvfile import CsvFile
from pattlite_dist.shards.sources.spellings import common_top, is_litter, plain_name, shown

LARGEST_FILE = 64 << 20  # bytes; no image of a face is larger
_MOST_FOLDERS = 100_000  # far beyond any data set: a home folder, or a maze of links
_ENCRYPTED = 1  # bit of a zip member's flags
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OverflowError,
)


class Files(ABC):
    """The contents of a folder or a zip.

    Attributes:
        path: of the folder or the zip.
        names: of the files, relative, with `/`, sorted. Hidden files and files that file managers
            create are left out, and a single folder around everything is stripped.
    """

    def __init__(self, path: Path, full_names: Iterable[str]) -> None:
        self.path = path
        full = sorted(full_names)
        for name in full:
            if not _is_utf8(name):
                raise refusal(self._where(name), "the name is not UTF-8", "rename the file")
        self._top = common_top(full)
        self.names = tuple(name[len(self._top) :] for name in full)

    def where(self, name: str) -> str:
        """The name of a file in messages."""
        return self._where(self._top + name)

    def place(self, name: str) -> Path:
        """The path of one of `names`, in a folder.

        Raises:
            UserError: this is a zip.
        """
        if self.path.is_file():
            raise refusal(self.where(name), "it is read only in a folder", "unpack the zip")
        return self.path / (self._top + name)

    def read(self, name: str) -> bytes:
        """The whole of one of `names`.

        Raises:
            UserError: it is gone, damaged, unreadable, or larger than 64 MiB.
        """
        where = self.where(name)
        try:
            data = self._read(self._top + name)
        except _ZIP_ERRORS as error:
            what = f"it is damaged ({_line(error)})"
            raise refusal(where, what, "create the zip again") from error
        except OSError as error:
            reason = error.strerror or _line(error)
            raise refusal(
                where, f"it cannot be read ({reason})", "check that it exists and is readable"
            ) from error
        if len(data) > LARGEST_FILE:
            raise refusal(
                where, f"it is larger than {LARGEST_FILE >> 20} MiB", "remove it from the data set"
            )
        return data

    @abstractmethod
    def table(self, name: str) -> CsvFile:
        """One of `names` as a CSV file, which may be of any size."""

    @abstractmethod
    def stamp(self) -> str:
        """A hash of names, sizes and times, which changes when a file does; reads no contents.

        Raises:
            UserError: the files are gone.
        """

    @abstractmethod
    def _where(self, full: str) -> str: ...

    @abstractmethod
    def _read(self, full: str) -> bytes:
        """At most one byte more than `LARGEST_FILE`."""


class _Folder(Files):
    def __init__(self, path: Path) -> None:
        super().__init__(path, (name for name, _ in _walk(path)))

    def table(self, name: str) -> CsvFile:
        return CsvFile(self.path / (self._top + name))

    def stamp(self) -> str:
        digest = hashlib.sha256()
        for name, *facts in sorted((name, *_facts(entry)) for name, entry in _walk(self.path)):
            digest.update(f"{name!a} {facts}\n".encode())
        return digest.hexdigest()

    def _where(self, full: str) -> str:
        return shown(str(self.path / full))

    def _read(self, full: str) -> bytes:
        with (self.path / full).open("rb") as stream:
            return stream.read(min(os.fstat(stream.fileno()).st_size, LARGEST_FILE) + 1)


class _Zip(Files):
    def __init__(self, path: Path) -> None:
        name = shown(str(path))
        fix = "copy or download it again, or unpack it and give the folder"
        try:
            self._archive = zipfile.ZipFile(path)
        except _ZIP_ERRORS as error:
            raise UserError(
                f"{name} is not a zip, or is truncated or damaged ({_line(error)}); {fix}"
            ) from error
        except OSError as error:
            raise _unreadable(path, error) from error
        self._members = _members(path, self._archive.infolist())
        super().__init__(path, self._members)

    def table(self, name: str) -> CsvFile:
        return CsvFile(self.path, self._members[self._top + name].filename)

    def stamp(self) -> str:
        try:
            info = self.path.stat()
        except OSError as error:
            raise _unreadable(self.path, error) from error
        return hashlib.sha256(f"{info.st_size} {info.st_mtime_ns}".encode()).hexdigest()

    def _where(self, full: str) -> str:
        return shown(f"{self.path}, member {full}")

    def _read(self, full: str) -> bytes:
        # A member's size is only the zip's claim: never unpack more than the limit.
        with self._archive.open(self._members[full]) as stream:
            return stream.read(LARGEST_FILE + 1)


def open_files(path: Path) -> Files:
    """List the contents of a folder or a zip.

    Raises:
        UserError: it is neither, or is damaged, encrypted or unreadable.
    """
    try:
        kind = path.stat().st_mode
    except OSError as error:
        raise _unreadable(path, error) from error
    if stat.S_ISDIR(kind):
        return _Folder(path)
    if stat.S_ISREG(kind):
        return _Zip(path)
    raise UserError(f"{shown(str(path))} is neither a folder nor a file; give a folder or a zip")


def _members(path: Path, infos: Iterable[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    members: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        where = shown(f"{path}, member {info.filename}")
        with refusing(where, "create the zip again"):
            name = plain_name(info.filename)
        is_link = stat.S_ISLNK(info.external_attr >> 16)
        if not name or info.filename.endswith(("/", "\\")) or is_litter(name):
            continue
        if is_link:
            raise refusal(
                where, "it is a symbolic link", "create the zip again with the link's target"
            )
        if name in members:
            raise refusal(where, "there are two of this name", "create the zip again")
        if info.flag_bits & _ENCRYPTED:
            raise refusal(where, "it is encrypted", "unpack it and give the folder")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # The other methods can expand a few bytes to any size in one step.
            raise refusal(
                where,
                f"it is compressed with method {info.compress_type}, not deflate",
                "unpack it and give the folder",
            )
        members[name] = info
    return members


def _walk(root: Path) -> Iterator[tuple[str, "os.DirEntry[str]"]]:
    """Every file below `root`, and every broken link, which reading will refuse.

    Links to folders are followed, except to a folder that contains them.
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
            raise _unreadable(root / prefix, error) from error


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


def _facts(entry: "os.DirEntry[str]") -> tuple[int, int]:
    """Size in bytes and modification time in nanoseconds; -1 if it is gone."""
    with contextlib.suppress(OSError):
        info = entry.stat()
        return info.st_size, info.st_mtime_ns
    return -1, -1


def _is_utf8(name: str) -> bool:
    with contextlib.suppress(UnicodeEncodeError):
        name.encode()
        return True
    return False


def _line(error: Exception) -> str:
    return shown((str(error).splitlines() or [type(error).__name__])[0])


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot read {shown(str(path))}: {error.strerror or _line(error)}; check the path and its "
        "permissions"
    )
