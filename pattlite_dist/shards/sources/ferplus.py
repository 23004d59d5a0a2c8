"""FER+: ten people's votes for every image of FER2013, joined by row number.

Barsoum et al., Training Deep Networks for Facial Expression Recognition with Crowd-Sourced Label
Distribution, ICMI 2016 (arXiv:1608.01041). The votes are in `fer2013new.csv` of
github.com/microsoft/FERPlus, whose row i belongs to row i of `fer2013.csv`. The numbers in its
image names are not row numbers: they drift from row 60 on.
"""

import contextlib
import hashlib
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, cast

from pattlite_dist.errors import UserError
from pattlite_dist.shards.manifest import SplitName
from pattlite_dist.shards.sources.base import Item, Source, notes_of, refusal
from pattlite_dist.shards.sources.csvfile import CsvFile, Record, stamp_of
from pattlite_dist.shards.sources.fer2013 import FER2013_SPLITS, short

FERPLUS_VOTES = (
    "neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt",
    "unknown", "NF",
)  # fmt: skip
FERPLUS_LABELS = ("neutral", "happy", "surprise", "sad", "angry", "disgust", "fear", "contempt")
CSV_KINDS = ("fer2013-csv", "fer2013-challenge")  # item.row is the row in a CSV
_CLASSES = len(FERPLUS_LABELS)  # their votes come first
_NOT_A_FACE = FERPLUS_VOTES.index("NF")
_HEADER = ["Usage", "Image name", *FERPLUS_VOTES]
_FIX = "give FER+'s original fer2013new.csv"

LeftOut = Literal["not a face", "no majority"]


class Votes(NamedTuple):
    """One row: its number, split, and counts in the order of `FERPLUS_VOTES`."""

    row: int
    split: SplitName
    counts: list[int]
    where: str


def target_of(votes: Sequence[int], mode: Literal["majority", "soft"]) -> list[float] | LeftOut:
    """The share of each of FER+'s eight classes, or why the image is left out of the set.

    Follows `_process_data` and `load_folders` in src/ferplus.py of github.com/microsoft/FERPlus,
    modes `majority` and `probability`. Single votes are ignored. `majority`: the class with more
    than half of the remaining votes. `soft`: the classes with the most votes, ties together, until
    they have three quarters of the votes or number three. Classes with fewer votes than "unknown"
    or "not a face" are ignored, and the image is left out if the chosen classes have no more than
    half of the votes, or number more than three.

    Args:
        votes: counts, in the order of `FERPLUS_VOTES`.
        mode: `majority` gives everything to one class.

    Returns:
        Eight shares that sum to 1, rounded to six digits.
    """
    kept = [count if count > 1 else 0 for count in votes]
    total = sum(kept)
    if 2 * kept[_NOT_A_FACE] > total:
        return "not a face"
    if mode == "majority":
        taken = [count if 2 * count > total else 0 for count in kept[:_CLASSES]]
    else:
        taken = _largest(kept)
    if 2 * sum(taken) <= total:
        return "no majority"
    return [round(count / sum(taken), 6) for count in taken]


def _largest(votes: list[int]) -> list[int]:
    taken: dict[int, int] = {}
    for level in sorted({*votes} - {0}, reverse=True):
        if 4 * sum(taken.values()) >= 3 * sum(votes) or len(taken) >= 3:
            break
        taken |= {i: level for i in range(_CLASSES) if votes[i] == level}
        if level in votes[_CLASSES:]:
            break
    return [taken.get(i, 0) if len(taken) <= 3 else 0 for i in range(_CLASSES)]


def parse_votes(records: Iterable[Record], where: str) -> Iterator[Votes]:
    """The rows of a `fer2013new.csv`, called `where` in messages.

    Raises:
        UserError: it is empty, has the wrong header, or a row is malformed.
    """
    records = iter(records)
    header = [_text(field) for field in next(records, Record(1, [])).fields]
    if not header:
        raise UserError(f"{where} is empty; {_FIX}")
    if header != _HEADER:
        found, needed = short([",".join(header)]), ",".join(_HEADER)
        raise UserError(f"{where} begins with {found!r}, not with {needed!r}; {_FIX}")
    for row, record in enumerate(records):
        place = f"{where}, row {row} (line {record.line})"
        if len(record.fields) != len(_HEADER):
            what = f"{len(record.fields)} fields, but {len(_HEADER)} are needed"
            raise refusal(place, what, _FIX)
        usage = _text(record.fields[0])
        if usage not in FER2013_SPLITS:
            what = f"Usage {short([usage])!r} is not one of {', '.join(FER2013_SPLITS)}"
            raise refusal(place, what, _FIX)
        counts = [_count(field.strip(), place) for field in record.fields[2:]]
        yield Votes(row, FER2013_SPLITS[usage], counts, place)


def _text(field: bytes) -> str:
    return field.decode("utf-8", "backslashreplace").strip()


def _count(text: bytes, place: str) -> int:
    # At most three digits: int() raises a different error for thousands of them.
    if text.isdigit() and len(text) <= 3:
        return int(text)
    raise refusal(place, f"{short([_text(text)])!r} is not a number of votes", _FIX)


class FerPlus:
    """FER2013 with FER+'s votes.

    Args:
        source: FER2013, with items numbered by the rows of a CSV.
        path: of `fer2013new.csv`.
        target: `labels` keeps FER2013's classes and adds the votes; `majority` and `soft` replace
            them with FER+'s eight, see `target_of`.

    Raises:
        UserError: the source has no such rows, or the file does not exist.
    """

    votes: tuple[str, ...] = FERPLUS_VOTES

    def __init__(
        self, source: Source, path: Path, target: Literal["labels", "majority", "soft"]
    ) -> None:
        if source.kind not in CSV_KINDS:
            raise UserError(
                f"FER+'s votes are joined to the rows of a fer2013.csv, but {source.name} is of "
                f"the kind {source.kind}, which has none; give the CSV, or leave out the votes"
            )
        stamp_of([path])  # raises if it does not exist
        if not path.is_file():  # reading a pipe would block
            raise UserError(f"{path} is not a file; {_FIX}")
        self.source, self.file, self.target = source, CsvFile(path), target
        self.kind = f"{source.kind}+ferplus"
        self.name = f"{source.name} + fer2013new.csv"
        self.labels = source.labels if target == "labels" else FERPLUS_LABELS
        self.image, self.decode, self.cut = source.image, source.decode, source.cut
        self.notes = notes_of(source)
        self.left_out: dict[str, int] = {}
        self._read = 0  # of the source's items

    @property
    def sha256(self) -> str:
        """Hash of the source's hash and the votes'; known once `items` is exhausted."""
        both = f"{self.source.sha256}+{self.file.sha256}"
        return hashlib.sha256(both.encode()).hexdigest()

    def stamp(self) -> str:
        """The source's, and the path, size and time of the votes."""
        return f"{self.source.stamp()}+{stamp_of([self.file.path])}"

    def expected(self, items: int) -> int | None:
        """The source's, less the fraction left out so far."""
        expected = self.source.expected(self._read)
        return None if expected is None or not self._read else expected * items // self._read

    def items(self) -> Iterator[Item]:
        """Yield the source's items that have a target, with their votes.

        Raises:
            UserError: the votes cannot be read, or do not belong to the source's rows.
        """
        records = cast("Generator[Record, None, None]", self.file.records())
        with contextlib.closing(records):  # immediately if a row is refused, not when collected
            yield from self._items(parse_votes(records, self.file.shown))

    def _items(self, rows: Iterator[Votes]) -> Iterator[Item]:
        shown, left_out = self.file.shown, Counter[str]()
        counted = self._read = 0
        for item in self.source.items():
            self._read += 1
            for votes in rows:
                counted += 1
                if votes.row == item.row:
                    break
            else:
                raise refusal(shown, f"it has {counted:,} rows but none for {item.where}", _FIX)
            if item.split not in (None, votes.split):
                what = f"it is in {votes.split}, but {item.where} is in {item.split}"
                raise refusal(votes.where, what, "give votes and images of the same rows")
            target = None if self.target == "labels" else target_of(votes.counts, self.target)
            if isinstance(target, str):
                left_out[target] += 1
            else:
                yield self._joined(item, votes.counts, target)
        counted += sum(1 for _ in rows)
        known = self._read + sum(self.source.left_out.values())  # skipped rows have votes too
        if counted != known:
            what = f"it has {counted:,} rows, but {self.source.name} has {known:,}"
            raise refusal(shown, what, "give votes and images of the same rows")
        self.kind = f"{self.source.kind}+ferplus"  # a CSV's kind is known only from its header
        self.left_out = {**self.source.left_out, **left_out}

    def _joined(self, item: Item, votes: list[int], target: list[float] | None) -> Item:
        facts = {**(item.facts or {}), "votes": votes}
        if target is None:
            return item._replace(facts=facts)
        if self.target == "soft":
            facts["target"] = target
        return item._replace(label=target.index(max(target)), facts=facts)
