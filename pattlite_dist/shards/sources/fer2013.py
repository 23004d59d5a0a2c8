"""FER2013 as CSV: `fer2013.csv`, `icml_face_data.csv`, or the challenge's train and test files."""

import contextlib
import re
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import NamedTuple, cast

import numpy as np

from pattlite_dist.errors import UserError
from pattlite_dist.shards.manifest import ImageInfo, SplitName
from pattlite_dist.shards.sources.base import EMOTIONS, Item, Pixels, Reading, damage, refusal
from pattlite_dist.shards.sources.csvfile import CsvFile, Record, stamp_of
from pattlite_dist.shards.sources.spellings import shown

FER2013_LABELS = EMOTIONS
FER2013_SPLITS: dict[str, SplitName] = {
    "Training": "train",
    "PublicTest": "val",
    "PrivateTest": "test",
}
FER2013_SIDE = 48
_IMAGE = ImageInfo(channels=1, height=FER2013_SIDE, width=FER2013_SIDE)
_CSV_NAME = re.compile(
    r"(.+?)\.csv(?:\.xz|\.gz|\.zip)?|(fer2013)(?:\.tar\.gz|\.tgz)", re.IGNORECASE
)
_FIX = "fix the row, or download the file again if it is truncated"


def decode_pixels(item: Item) -> tuple[Pixels, bool]:
    """Pixels from text such as `70 80 82`, uint8 [1, 48, 48]; never converted.

    Raises:
        Damaged: it is not 2304 whole numbers from 0 to 255.
    """
    plain = _decode_plain(item.data)
    if plain is not None:
        return plain.reshape(_IMAGE.shape), False
    try:
        if item.data.translate(None, b"-0123456789 \t"):
            raise ValueError
        with warnings.catch_warnings():
            # Before NumPy 2.3 bad text only raised a warning, and what came before was used.
            warnings.simplefilter("error", DeprecationWarning)
            pixels = np.fromstring(item.data, dtype=np.int64, sep=" ")
    except (ValueError, DeprecationWarning):
        what = "the pixels are not whole numbers separated by spaces"
        raise damage(item.where, what, _FIX) from None
    if len(pixels) != FER2013_SIDE**2:
        what = f"{len(pixels)} pixels, but {FER2013_SIDE**2} are needed"
        raise damage(item.where, what, _FIX)
    if pixels.min() < 0 or pixels.max() > 255:
        raise damage(item.where, "a pixel is outside 0 to 255", _FIX)
    return pixels.astype(np.uint8).reshape(_IMAGE.shape), False


def _decode_plain(text: bytes) -> Pixels | None:
    """Parse numbers of one to three digits separated by single spaces, in half of NumPy's time.

    None for anything else, whether it is wrong or only formatted differently.
    """
    characters = np.frombuffer(b"   " + text + b" ", np.uint8)
    digits = characters - np.uint8(48)  # 10 or more for anything but a digit
    last = np.flatnonzero(characters[3:] == ord(" ")) + 2  # of each number
    if len(last) != FER2013_SIDE**2:
        return None
    ones, tens, hundreds = digits[last], digits[last - 1], digits[last - 2]
    two = tens < 10
    three = two & (hundreds < 10)
    if (
        ones.max() > 9
        or np.count_nonzero(two) + np.count_nonzero(three) + 2 * len(last) != len(text) + 1
    ):
        return None  # a number has no digits or more than three, or there is something else
    pixels = (ones + tens * two * np.uint8(10)).astype(np.uint16)
    pixels += np.multiply(hundreds * three, 100, dtype=np.uint16)
    return None if pixels.max() > 255 else pixels.astype(np.uint8)


class _Columns(NamedTuple):
    """Positions of a file's columns; -1 if missing."""

    names: list[str]
    emotion: int
    pixels: int
    usage: int


class Fer2013Csv:
    """`fer2013.csv` of the 2013 challenge (Goodfellow et al., arXiv:1307.0414), or a similar file.

    Columns are found by name, in any order and with any spaces around the names. Each file may
    be plain, `.xz`, `.gz` or in a `.zip`; it is never unpacked to disk.

    Args:
        files: `fer2013.csv`, or the challenge's `train.csv` and optionally `test.csv`.
        reading: `unlabelled` applies to `test.csv`, which has no labels.
    """

    name = "fer2013.csv"
    labels: tuple[str, ...] = FER2013_LABELS
    image = _IMAGE
    votes: tuple[str, ...] = ()
    notes: Sequence[str] = ()
    _unsplit = "fer2013-challenge"  # its kind without Usage
    _whose = "FER2013's"
    _other = "read a CSV of CK+ (7 is contempt) with --source ck+csv, or images by class folder"

    def __init__(self, files: Sequence[CsvFile], reading: Reading) -> None:
        self.files, self.reading = list(files), reading
        self.kind = "fer2013-csv"
        self.decode: Callable[[Item], tuple[Pixels, bool]] = decode_pixels
        self.cut: tuple[SplitName, ...] = ("val", "test")  # if there is no Usage, or no row of it
        self.left_out: dict[str, int] = {}

    @property
    def sha256(self) -> str:
        """Hash of the uncompressed CSV, or of both if there are two; known after `items`."""
        return "+".join(file.sha256 for file in self.files)

    def stamp(self) -> str:
        """Path, size and time of the files."""
        return stamp_of([file.path for file in self.files])

    def expected(self, items: int) -> int | None:
        """From the fraction read of the first file, as a second has no labels; rows are alike."""
        share = self.files[0].share()
        return max(items, round(items / share)) if share > 0 else None

    def items(self) -> Iterator[Item]:
        """Yield the rows in file order.

        Raises:
            UserError: a row is malformed, has no label, or a file is truncated.
        """
        self.left_out = {}
        row = 0
        for file in self.files:
            records = cast("Generator[Record, None, None]", file.records())
            with contextlib.closing(records):  # immediately if a row is refused
                first, row = row, (yield from self._rows(file, records, row))
            if row == first:
                raise UserError(f"{file.shown} has a header but no rows; copy or download it again")

    def _rows(
        self, file: CsvFile, records: Iterator[Record], row: int
    ) -> Generator[Item, None, int]:
        """Yield the rows of a file, numbered from `row`; returns the next number."""
        columns = self._columns(file, next(records, Record(1, [])))
        for record in records:
            where = f"{file.shown}, row {row} (line {record.line})"
            if len(record.fields) != len(columns.names):
                what = f"{len(record.fields)} fields, but {len(columns.names)} are needed"
                raise refusal(where, what, _FIX)
            if columns.emotion < 0:
                self._leave_out(where)
            else:
                yield self._item(row, record.fields, columns, where)
            row += 1
        return row

    def _item(self, row: int, fields: list[bytes], columns: _Columns, where: str) -> Item:
        label = self._label(fields[columns.emotion].strip(), where)
        split = _split(fields[columns.usage].strip(), where) if columns.usage >= 0 else None
        return Item(row, label, split, fields[columns.pixels], where)

    def _label(self, text: bytes, where: str) -> int:
        # At most three digits: int() raises a different error for thousands of them.
        number = int(text) if text.isdigit() and len(text) <= 3 else -1
        if 0 <= number < len(self.labels):
            return number
        found = short([text.decode("utf-8", "backslashreplace")])
        what = f"label {found!r} is not from 0 to {len(self.labels) - 1}"
        if number < 0:
            raise refusal(where, what, _FIX)
        what += f", {self._whose} classes ({', '.join(self.labels)})"
        raise refusal(where, what, self._other)

    def _leave_out(self, where: str) -> None:
        if self.reading.unlabelled == "refuse":
            raise refusal(
                where,
                "it has no label, because the challenge did not publish those of its test.csv",
                "give fer2013.csv, or skip such rows with --unlabelled skip",
            )
        self.left_out["unlabelled"] = self.left_out.get("unlabelled", 0) + 1

    def _columns(self, file: CsvFile, header: Record) -> _Columns:
        names = _names(file, header)
        wanted = ["emotion", "pixels", "Usage"]
        if sorted(names) in (["emotion", "pixels"], ["pixels"]):  # train.csv and test.csv
            self.kind, wanted = self._unsplit, ["pixels"]
        missing = [name for name in wanted if name not in names]
        if missing:
            raise UserError(
                f"{file.shown} has no column {', '.join(missing)} (found: {shown(short(names))}); "
                "its first line must be emotion,pixels,Usage"
            )
        for name in wanted:
            if names.count(name) > 1:
                raise UserError(f"{file.shown} has two columns named {name}; remove one of them")
        emotion, pixels, usage = (
            names.index(name) if name in names else -1 for name in ("emotion", "pixels", "Usage")
        )
        if emotion >= 0 and file is not self.files[0]:
            raise UserError(
                f"{file.shown} has labels, but the challenge's test.csv has none; give one CSV "
                "file with a column Usage, or the file to read"
            )
        return _Columns(names, emotion, pixels, usage)


def _names(file: CsvFile, header: Record) -> list[str]:
    try:
        return [name.strip().decode() for name in header.fields]
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file.shown} is not text ({error.reason} in its first line); save it as CSV in UTF-8"
        ) from None


def _split(text: bytes, where: str) -> SplitName:
    name = text.decode("utf-8", "backslashreplace")
    if name in FER2013_SPLITS:
        return FER2013_SPLITS[name]
    known = ", ".join(FER2013_SPLITS)
    raise refusal(where, f"Usage {short([name])!r} is not one of {known}", _FIX)


def short(names: list[str]) -> str:
    """Names for a message, shortened if they are long."""
    text = ", ".join(names)
    return text if len(text) <= 60 else text[:57] + "..."


def csv_files(names: Sequence[str]) -> list[str]:
    """FER2013's CSV files among the names in a folder or an archive.

    `fer2013.csv` or `icml_face_data.csv`, or the challenge's `train.csv` and `test.csv`, or all
    candidates.
    """
    stems: dict[str, list[str]] = {}
    for name in names:
        found = _CSV_NAME.fullmatch(name.split("/")[-1])
        stem = (found[1] or found[2]) if found else "fer2013new"
        if stem != "fer2013new":
            stems.setdefault(stem, []).append(name)
    for stem in ("fer2013", "icml_face_data"):
        if stem in stems:
            return _one(stems[stem])
    if "train" in stems:
        return _one(stems["train"]) + _one(stems.get("test", []))
    return [name for group in stems.values() for name in group]


def _one(names: list[str]) -> list[str]:
    """The first of a file's packings; all of them if they are in several folders."""
    folders = {name.rpartition("/")[0] for name in names}
    return names[:1] if len(folders) == 1 else names
