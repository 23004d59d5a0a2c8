"""Fast reader for CSV files with long lines: plain or packed, hashed while reading."""

import contextlib
import csv
import gzip
import hashlib
import io
import itertools
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple, cast

from pattlite_dist.errors import UserError
from pattlite_dist.shards.sources.base import Hashed
from pattlite_dist.shards.sources.spellings import shown

_BLOCK = 1 << 20
_LONGEST = 1 << 20  # bytes of a line; those of FER2013 have 9,000
_BOM = b"\xef\xbb\xbf"
_DAMAGE = (
    EOFError,
    lzma.LZMAError,
    zlib.error,
    gzip.BadGzipFile,
    zipfile.BadZipFile,
    tarfile.TarError,
)
TAR_SUFFIXES = (".tar.gz", ".tgz")
_IN_TARS = ("fer2013.csv", "icml_face_data.csv")  # what the challenge's archives hold


class Record(NamedTuple):
    """One record: the number of its line, from 1, and its fields."""

    line: int
    fields: list[bytes]


class _Source(io.RawIOBase):
    """Bytes of a file, hashed while reading, so that it is read only once for both."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.digest = hashlib.sha256()
        self.again = b""  # read again before the rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self.again:
            data, self.again = self.again[: len(buffer)], self.again[len(buffer) :]
        else:
            data = self.block(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def block(self, size: int = _BLOCK) -> bytes:
        data = self.stream.read(size)
        self.digest.update(data)
        return data


@dataclass
class CsvFile(Hashed):
    """A file, or a member of a zip archive.

    Attributes:
        path: plain, or packed according to its suffix; of a .tar.gz, the `fer2013.csv` inside.
        member: of the archive at `path`; None for its only CSV file.
    """

    path: Path
    member: str | None = None
    _read_by = "records"

    def __post_init__(self) -> None:
        self._raw: IO[bytes] | None = None
        self._start, self._size = 0, 1  # of its packed bytes, within the file

    @property
    def shown(self) -> str:
        """Its name in messages."""
        return shown(f"{self.path}, member {self.member}" if self.member else str(self.path))

    def share(self) -> float:
        """The fraction of the (packed) file that has been read, from 0 to 1."""
        if self._sha256:
            return 1.0
        if self._raw is None or self._raw.closed:
            return 0.0
        return min(1.0, max(0.0, (self._raw.tell() - self._start) / self._size))

    def records(self) -> Iterator[Record]:
        """Yield the header and the rows, but no blank lines.

        Raises:
            UserError: it cannot be read, is truncated or damaged, or is not a CSV file.
        """
        self._sha256 = ""
        try:
            with contextlib.ExitStack() as stack:
                source = _Source(self._open(stack))
                for record in _records(source):
                    if len(record.fields) > 1 or (record.fields and record.fields[0].strip()):
                        yield record
                self._sha256 = source.digest.hexdigest()
        except _DAMAGE as e:
            raise UserError(
                f"{self.shown} is truncated or damaged ({e}); copy or download it again"
            ) from e
        except UnicodeDecodeError as e:
            raise UserError(
                f"{self.shown} is not text ({e.reason} at byte {e.start}); save it as CSV in UTF-8"
            ) from e
        except csv.Error as e:
            raise UserError(
                f"{self.shown} is not a CSV file ({e}); copy it again, or save it as CSV"
            ) from e
        except OSError as e:
            raise UserError(
                f"cannot read {self.shown}: {e.strerror or e}; check the path and its permissions"
            ) from e

    def _open(self, stack: contextlib.ExitStack) -> IO[bytes]:
        raw = self._raw = stack.enter_context(self.path.open("rb"))
        self._start, self._size = 0, max(1, self.path.stat().st_size)
        stream: IO[bytes] = raw
        name = self.path.name.lower()
        if name.endswith(".zip"):
            stream, name = self._member(stack, raw)
        if name.endswith(TAR_SUFFIXES):
            return self._in_tar(stack, stream)
        if name.endswith(".xz"):
            return cast(IO[bytes], stack.enter_context(lzma.open(stream)))
        if name.endswith(".gz"):
            return cast(IO[bytes], stack.enter_context(gzip.open(stream)))
        if name.endswith(".zip"):
            raise UserError(f"{self.shown} is a zip within a zip; unpack the outer one")
        return stream

    def _in_tar(self, stack: contextlib.ExitStack, stream: IO[bytes]) -> IO[bytes]:
        # As a stream, because seeking would unpack everything before each place.
        archive = stack.enter_context(tarfile.TarFile.open(fileobj=stream, mode="r|*"))
        for member in archive:
            if member.isfile() and member.name.lower().split("/")[-1] in _IN_TARS:
                return cast(IO[bytes], archive.extractfile(member))
        raise UserError(
            f"{self.shown} contains no {_IN_TARS[0]}; unpack it and give the folder of the data set"
        )

    def _member(self, stack: contextlib.ExitStack, raw: IO[bytes]) -> tuple[IO[bytes], str]:
        try:
            archive = stack.enter_context(zipfile.ZipFile(raw))
            info = archive.getinfo(self.member or _only(archive, self.path))
            self._start, self._size = info.header_offset, max(1, info.compress_size)
            return stack.enter_context(archive.open(info)), info.filename.lower()
        except KeyError:
            raise UserError(
                f"{self.shown} is no longer there; run the command again once the zip is complete"
            ) from None
        except (RuntimeError, NotImplementedError) as error:  # a password, an unknown method
            raise UserError(
                f"{shown(str(self.path))} cannot be unpacked ({shown(str(error))}); unpack it and "
                "give the CSV file"
            ) from error
        except (struct.error, ValueError, OverflowError) as error:  # sizes and offsets out of range
            raise zipfile.BadZipFile(str(error)) from error


def _only(archive: zipfile.ZipFile, path: Path) -> str:
    names = [name for name in archive.namelist() if name.endswith(".csv")]
    names = [name for name in names if "__MACOSX" not in name]
    if len(names) != 1:
        raise UserError(
            f"{shown(str(path))} contains {len(names)} CSV files, but must contain one; unpack it "
            "and give the one to read"
        )
    return names[0]


def _records(source: _Source) -> Iterator[Record]:
    """Split at line ends and commas; quotes and unusual line ends are left to the csv module.

    That takes eight times as long, mostly in fields of thousands of digits.
    """
    rest, line = b"", 0
    while block := source.block():
        if not line and not rest:
            block = block.removeprefix(_BOM)
        # Searching for one is much faster than counting them.
        strange = b"\r" in block and block.count(b"\r") != block.count(b"\r\n")
        if strange or b'"' in block:
            source.again = rest + block
            text = io.TextIOWrapper(io.BufferedReader(source, _BLOCK), "utf-8", newline="")
            rows, before = csv.reader(_lines(text, line)), 0
            for row in rows:  # each may span several lines
                yield Record(line + before + 1, [field.encode() for field in row])
                before = rows.line_num
            return
        *lines, rest = (rest + block).split(b"\n")
        for content in lines:
            line += 1
            yield Record(line, _fields(content))
        if len(rest) > _LONGEST:
            raise _endless(line + 1)
    if rest:
        yield Record(line + 1, _fields(rest))


def _lines(text: io.TextIOWrapper, before: int) -> Iterator[str]:
    """The lines of `text`, without ever reading a whole file that has no line ends."""
    for number in itertools.count(before + 1):
        line = text.readline(_LONGEST + 1)
        if len(line) > _LONGEST:
            raise _endless(number)
        if not line:
            return
        yield line


def _endless(line: int) -> csv.Error:
    return csv.Error(f"line {line} is longer than {_LONGEST:,} bytes")


def _fields(line: bytes) -> list[bytes]:
    return line.removesuffix(b"\r").split(b",") if line.strip() else []


def stamp_of(paths: Sequence[Path]) -> str:
    """A hash of paths, sizes and times, which changes when the files do.

    Raises:
        UserError: one of them is gone.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            found = path.stat()
        except OSError as error:
            raise UserError(
                f"cannot read {shown(str(path))}: {error.strerror}; check the path"
            ) from error
        digest.update(f"{path.resolve()}\0{found.st_size}\0{found.st_mtime_ns}\0".encode())
    return digest.hexdigest()
