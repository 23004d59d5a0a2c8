"""The files of a data set, in a folder or in a .zip, which is read without unpacking it."""

import contextlib
import functools
import hashlib
import os
import stat
import struct
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path

from pattlite_dist.errors import UserError
from pattlite_dist.shards.sources.base import damage, refusal, refusing
from pattlite_dist.shards.sources.content import HEAD, is_text, shows_image
from pattlite_dist.shards.sources.csvfile import CsvFile
from pattlite_dist.shards.sources.spellings import (
    common_top,
    is_image,
    is_litter,
    plain_name,
    shown,
)
from pattlite_dist.shards.sources.walk import facts_of, line_of, unreadable, walk

LARGEST_FILE = 64 << 20  # bytes; no image of a face is larger
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
        empty: the folders, relative, in which there is not a single file.
    """

    def __init__(self, path: Path, full_names: Iterable[str], folders: Iterable[str] = ()) -> None:
        self.path = path
        full = sorted(full_names)
        for name in full:
            if not _is_utf8(name):
                raise refusal(self._where(name), "the name is not UTF-8", "rename the file")
        self._top = common_top(full)
        self.names = tuple(name[len(self._top) :] for name in full)
        filled: set[str] = set()
        for folder in {name.rpartition("/")[0] for name in full}:
            filled |= {folder[:end] for end in _ends(folder)}
        self.empty = tuple(
            folder[len(self._top) :]
            for folder in sorted(folders)
            if folder.startswith(self._top) and folder not in filled
        )

    @functools.cached_property
    def images(self) -> tuple[str, ...]:
        """Those of `names` that are images: by a known suffix, or by their first bytes."""
        return tuple(name for name in self.names if is_image(name) or self._shows_image(name))

    @functools.cached_property
    def others(self) -> tuple[str, ...]:
        """Those of `names` that are not `images`."""
        images = set(self.images)
        return tuple(name for name in self.names if name not in images)

    def _shows_image(self, name: str) -> bool:
        if is_text(name):
            return False
        with contextlib.suppress(UserError):  # an image or not, it cannot be read
            return shows_image(self.read(name, HEAD))
        return False

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

    def read(self, name: str, most: int | None = None) -> bytes:
        """One of `names`: the whole, or at most `most` bytes from its beginning.

        Raises:
            Damaged: it is damaged, or larger than 64 MiB.
            UserError: it is gone or unreadable.
        """
        where = self.where(name)
        try:
            data = self._read(self._top + name, LARGEST_FILE + 1 if most is None else most)
        except _ZIP_ERRORS as error:
            what = f"it is damaged ({line_of(error)})"
            raise damage(where, what, "create the zip again") from error
        except OSError as error:
            reason = error.strerror or line_of(error)
            raise refusal(
                where, f"it cannot be read ({reason})", "check that it exists and is readable"
            ) from error
        if len(data) > LARGEST_FILE:
            raise damage(
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
    def _read(self, full: str, most: int) -> bytes:
        """At most `most` bytes."""


class _Folder(Files):
    def __init__(self, path: Path) -> None:
        folders: list[str] = []
        super().__init__(path, (name for name, _ in walk(path, folders)), folders)

    def table(self, name: str) -> CsvFile:
        return CsvFile(self.path / (self._top + name))

    def stamp(self) -> str:
        digest = hashlib.sha256()
        for name, *facts in sorted((name, *facts_of(entry)) for name, entry in walk(self.path, [])):
            digest.update(f"{name!a} {facts}\n".encode())
        return digest.hexdigest()

    def _where(self, full: str) -> str:
        return shown(str(self.path / full))

    def _read(self, full: str, most: int) -> bytes:
        with (self.path / full).open("rb") as stream:
            return stream.read(min(os.fstat(stream.fileno()).st_size + 1, most))


class _Zip(Files):
    def __init__(self, path: Path) -> None:
        name = shown(str(path))
        fix = "copy or download it again, or unpack it and give the folder"
        try:
            self._archive = zipfile.ZipFile(path)
        except _ZIP_ERRORS as error:
            raise UserError(
                f"{name} is not a zip, or is truncated or damaged ({line_of(error)}); {fix}"
            ) from error
        except OSError as error:
            raise unreadable(path, error) from error
        infos = self._archive.infolist()
        self._members = _members(path, infos)
        plain = (plain_name(info.filename) for info in infos if info.is_dir())
        super().__init__(
            path, self._members, (name for name in plain if name and not is_litter(name))
        )

    def table(self, name: str) -> CsvFile:
        return CsvFile(self.path, self._members[self._top + name].filename)

    def stamp(self) -> str:
        try:
            info = self.path.stat()
        except OSError as error:
            raise unreadable(self.path, error) from error
        return hashlib.sha256(f"{info.st_size} {info.st_mtime_ns}".encode()).hexdigest()

    def _where(self, full: str) -> str:
        return shown(f"{self.path}, member {full}")

    def _read(self, full: str, most: int) -> bytes:
        # A member's size is only the zip's claim: never unpack more than the limit.
        with self._archive.open(self._members[full]) as stream:
            return stream.read(most)


def open_files(path: Path) -> Files:
    """List the contents of a folder or a zip.

    Raises:
        UserError: it is neither, or is damaged, encrypted or unreadable.
    """
    try:
        kind = path.stat().st_mode
    except OSError as error:
        raise unreadable(path, error) from error
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


def _is_utf8(name: str) -> bool:
    with contextlib.suppress(UnicodeEncodeError):
        name.encode()
        return True
    return False


def _ends(folder: str) -> list[int]:
    """The lengths of a folder's name and of those above it."""
    return [*(place for place, letter in enumerate(folder) if letter == "/"), len(folder)]
