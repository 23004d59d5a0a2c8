"""Sources: the forms in which people hold a data set, read one row at a time.

A source can be iterated more than once, because the writer surveys it before it writes anything.
"""

import contextlib
import csv
import gzip
import hashlib
import io
import lzma
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from pattlite_dist.errors import UserError
from pattlite_dist.shards.manifest import SplitName

FER2013_LABELS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
FER2013_SPLITS: dict[str, SplitName] = {
    "Training": "train",
    "PublicTest": "val",
    "PrivateTest": "test",
}
FER2013_SIDE = 48
CSV_SUFFIXES = (".csv", ".csv.xz", ".csv.gz", ".csv.zip", ".zip")


@dataclass(frozen=True)
class Row:
    """One labelled image: its place in the source, its split, and uint8 pixels [C, H, W]."""

    index: int
    label: int
    split: SplitName
    image: NDArray[np.uint8]


class Source(Protocol):
    """What the writer needs to know of a data set."""

    kind: str
    name: str
    labels: tuple[str, ...]
    shape: tuple[int, int, int]

    def rows(self) -> Iterator[Row]:
        """Yield every row in source order; after the last one `sha256` is known."""
        ...

    @property
    def sha256(self) -> str:
        """Hash of the uncompressed source, so that `.csv` and `.csv.xz` give the same shards."""
        ...


class _HashingReader(io.RawIOBase):
    """Passes bytes on and hashes them on the way, so that a source is read only once for both."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.digest = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self.stream.read(len(buffer))
        buffer[: len(data)] = data
        self.digest.update(data)
        return len(data)


class Fer2013Csv:
    """`fer2013.csv` of the 2013 challenge (Goodfellow et al., arXiv:1307.0414).

    Columns are found by name, whatever their order and the blanks around the names. The file may
    be plain or `.xz`, `.gz` or `.zip`; it is never unpacked to disk.
    """

    kind = "fer2013-csv"
    labels: tuple[str, ...] = FER2013_LABELS
    shape = (1, FER2013_SIDE, FER2013_SIDE)

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = "fer2013.csv"
        self._sha256 = ""

    @property
    def sha256(self) -> str:
        """Hash of the uncompressed CSV; known once `rows` has been read to its end."""
        if not self._sha256:
            raise RuntimeError("the hash is known once rows() has been read to its end")
        return self._sha256

    def rows(self) -> Iterator[Row]:
        """Yield the rows in file order.

        Raises:
            UserError: a row is malformed or the file is truncated; names the row and its line.
        """
        try:
            with contextlib.ExitStack() as stack:
                raw = _HashingReader(_open_bytes(self.path, stack))
                text = io.TextIOWrapper(io.BufferedReader(raw, 1 << 20), "utf-8-sig", newline="")
                yield from self._parse(csv.reader(text))
                self._sha256 = raw.digest.hexdigest()
        except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile) as e:
            raise UserError(
                f"{self.path} is truncated or damaged ({e}); copy or download it again"
            ) from e
        except UnicodeDecodeError as e:
            raise UserError(
                f"{self.path} is not text ({e.reason} at byte {e.start}); give a fer2013.csv"
            ) from e
        except csv.Error as e:
            raise UserError(f"{self.path} is not a CSV file ({e}); give a fer2013.csv") from e
        except OSError as e:
            raise UserError(
                f"cannot read {self.path}: {e.strerror or e}; check the path and its permissions"
            ) from e

    def _parse(self, lines: Iterator[list[str]]) -> Iterator[Row]:
        header = [name.strip() for name in next(lines, [])]
        missing = [name for name in ("emotion", "pixels", "Usage") if name not in header]
        if missing:
            raise UserError(
                f"{self.path} has no column {', '.join(missing)} (found: {_short(header)}); "
                "its first line must be emotion,pixels,Usage"
            )
        columns = [header.index(name) for name in ("emotion", "pixels", "Usage")]
        index = -1
        for index, fields in enumerate(lines):
            if len(fields) != len(header):
                raise self._bad(index, f"{len(fields)} fields where {len(header)} are needed")
            emotion, pixels, usage = (fields[column].strip() for column in columns)
            label, split = self._label(index, emotion), self._split(index, usage)
            yield Row(index, label, split, self._image(index, pixels))
        if index < 0:
            raise UserError(f"{self.path} has a header and no rows; copy or download it again")

    def _label(self, index: int, text: str) -> int:
        # Three digits at most: int() refuses thousands of them with an error of its own.
        short = text.isascii() and text.isdigit() and len(text) <= 3
        if short and int(text) < len(self.labels):
            return int(text)
        last = len(self.labels) - 1
        raise self._bad(index, f"label {_short([text])!r} is not one of 0 to {last}")

    def _split(self, index: int, text: str) -> SplitName:
        if text in FER2013_SPLITS:
            return FER2013_SPLITS[text]
        known = ", ".join(FER2013_SPLITS)
        raise self._bad(index, f"Usage {_short([text])!r} is not one of {known}")

    def _image(self, index: int, text: str) -> NDArray[np.uint8]:
        try:
            with warnings.catch_warnings():  # before NumPy 2.3 bad text was a warning only
                warnings.simplefilter("error", DeprecationWarning)
                pixels = np.fromstring(text, dtype=np.int64, sep=" ")
        except (ValueError, DeprecationWarning):
            raise self._bad(index, "the pixels are not whole numbers between blanks") from None
        if len(pixels) != FER2013_SIDE**2:
            raise self._bad(index, f"{len(pixels)} pixels where {FER2013_SIDE**2} are needed")
        if pixels.min() < 0 or pixels.max() > 255:
            raise self._bad(index, "a pixel lies outside 0 to 255")
        return pixels.astype(np.uint8).reshape(self.shape)

    def _bad(self, index: int, what: str) -> UserError:
        return UserError(
            f"{self.path}, row {index} (line {index + 2}): {what}; mend the row, or download the "
            "file again if it is truncated"
        )


def _short(names: list[str]) -> str:
    text = ", ".join(names)
    return text if len(text) <= 60 else text[:57] + "..."


def _open_bytes(path: Path, stack: contextlib.ExitStack) -> IO[bytes]:
    """Open `path` for reading, decompressing by its suffix."""
    if path.suffix == ".xz":
        return cast(IO[bytes], stack.enter_context(lzma.open(path)))
    if path.suffix == ".gz":
        return cast(IO[bytes], stack.enter_context(gzip.open(path)))
    if path.suffix == ".zip":
        archive = stack.enter_context(zipfile.ZipFile(path))
        names = [n for n in archive.namelist() if n.endswith(".csv") and "__MACOSX" not in n]
        wanted = [n for n in names if Path(n).name == "fer2013.csv"] or names
        if len(wanted) != 1:
            raise UserError(
                f"{path} holds {len(wanted)} CSV files where one is needed; "
                "unpack it and give the one to read"
            )
        try:
            return stack.enter_context(archive.open(wanted[0]))
        except RuntimeError as error:  # a password, or a method that zipfile does not know
            raise UserError(
                f"{path} cannot be unpacked ({error}); unpack it and give the CSV file"
            ) from error
    return stack.enter_context(path.open("rb"))


def open_source(path: Path) -> Source:
    """Choose the reader for what lies at `path`: a file, or a folder that holds one.

    Raises:
        UserError: nothing is there, or nothing that a reader knows.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist; give the path of a fer2013.csv")
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.name.startswith("fer2013.csv"))
        if not found:
            raise UserError(
                f"{path} is a folder without a fer2013.csv (or .csv.xz, .csv.gz, .csv.zip); "
                "give the file itself"
            )
        path = found[0]
    if not path.name.endswith(CSV_SUFFIXES):
        raise UserError(
            f"{path} is not of a known kind; known are {', '.join(CSV_SUFFIXES)} with the columns "
            "emotion,pixels,Usage"
        )
    return Fer2013Csv(path)
