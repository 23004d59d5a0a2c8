"""FER+: ten people's votes for every image of FER2013, joined to it by row.

Barsoum et al., Training Deep Networks for Facial Expression Recognition with Crowd-Sourced Label
Distribution, ICMI 2016 (arXiv:1608.01041). The votes are github.com/microsoft/FERPlus's
`fer2013new.csv`, whose row i is about row i of `fer2013.csv`. The numbers in its image names are
not row numbers: they drift from row 60 on.
"""

import contextlib
import hashlib
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, cast

from pattlite_dist.errors import UserError
from pattlite_dist.shards.manifest import SplitName
from pattlite_dist.shards.sources.base import Item, Source, refusal
from pattlite_dist.shards.sources.csvfile import CsvFile, Record, stamp_of
from pattlite_dist.shards.sources.fer2013 import FER2013_SPLITS, short

FERPLUS_VOTES = (
    "neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt",
    "unknown", "NF",
)  # fmt: skip
FERPLUS_LABELS = ("neutral", "happy", "surprise", "sad", "angry", "disgust", "fear", "contempt")
CSV_KINDS = ("fer2013-csv", "fer2013-challenge")  # whose item.row is the row of a CSV
_CLASSES = len(FERPLUS_LABELS)  # the votes for them come first
_NOT_A_FACE = FERPLUS_VOTES.index("NF")
_HEADER = ["Usage", "Image name", *FERPLUS_VOTES]
_MEND = "give FER+'s fer2013new.csv as it was published"

LeftOut = Literal["not a face", "no majority"]


class Votes(NamedTuple):
    """One row: its number, the split that it names, and the counts, as in `FERPLUS_VOTES`."""

    row: int
    split: SplitName
    counts: list[int]
    where: str


def target_of(votes: Sequence[int], mode: Literal["majority", "soft"]) -> list[float] | LeftOut:
    """The share of each of FER+'s eight classes, or why the image is left out of the set.

    As `_process_data` and `load_folders` of github.com/microsoft/FERPlus, src/ferplus.py, have it
    in the modes `majority` and `probability`. Single votes count for nothing. `majority`: the
    class with more than half of what is left. `soft`: the classes with most votes, those with
    equally many together, until they have three quarters or are three. What has fewer votes than
    "unknown" or "not a face" counts for nothing, and the image is left out where the classes
    taken have no more than half, or are more than three.

    Args:
        votes: counts, as in `FERPLUS_VOTES`.
        mode: `majority` gives one class all.

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
    """The rows of a `fer2013new.csv`, whose name for messages is `where`.

    Raises:
        UserError: it is empty, has another header, or a row is malformed.
    """
    records = iter(records)
    header = [_text(field) for field in next(records, Record(1, [])).fields]
    if not header:
        raise UserError(f"{where} is empty; {_MEND}")
    if header != _HEADER:
        found, needed = short([",".join(header)]), ",".join(_HEADER)
        raise UserError(f"{where} begins with {found!r}, not with {needed!r}; {_MEND}")
    for row, record in enumerate(records):
        place = f"{where}, row {row} (line {record.line})"
        if len(record.fields) != len(_HEADER):
            what = f"{len(record.fields)} fields where {len(_HEADER)} are needed"
            raise refusal(place, what, _MEND)
        usage = _text(record.fields[0])
        if usage not in FER2013_SPLITS:
            what = f"Usage {short([usage])!r} is not one of {', '.join(FER2013_SPLITS)}"
            raise refusal(place, what, _MEND)
        counts = [_count(field.strip(), place) for field in record.fields[2:]]
        yield Votes(row, FER2013_SPLITS[usage], counts, place)


def _text(field: bytes) -> str:
    return field.decode("utf-8", "backslashreplace").strip()


def _count(text: bytes, place: str) -> int:
    # Three digits at most: int() refuses thousands of them with an error of its own.
    if text.isdigit() and len(text) <= 3:
        return int(text)
    raise refusal(place, f"{short([_text(text)])!r} is not a number of votes", _MEND)


class FerPlus:
    """FER2013 with FER+'s votes.

    Args:
        source: of FER2013, one whose items have the rows of a CSV.
        path: of `fer2013new.csv`.
        target: `labels` keeps FER2013's classes and adds the votes; `majority` and `soft` put
            FER+'s eight in their place, see `target_of`.

    Raises:
        UserError: the source's items have no such rows, or there is no such file.
    """

    votes: tuple[str, ...] = FERPLUS_VOTES

    def __init__(
        self, source: Source, path: Path, target: Literal["labels", "majority", "soft"]
    ) -> None:
        if source.kind not in CSV_KINDS:
            raise UserError(
                f"FER+'s votes are joined to the rows of a fer2013.csv, and {source.name} is of "
                f"the kind {source.kind}, which has none; give the CSV, or leave the votes out"
            )
        stamp_of([path])  # it is there
        if not path.is_file():  # a pipe would be waited for
            raise UserError(f"{path} is not a file; {_MEND}")
        self.source, self.file, self.target = source, CsvFile(path), target
        self.kind = f"{source.kind}+ferplus"
        self.name = f"{source.name} + fer2013new.csv"
        self.labels = source.labels if target == "labels" else FERPLUS_LABELS
        self.image, self.decode, self.cut = source.image, source.decode, source.cut
        self.left_out: dict[str, int] = {}
        self._read = 0  # of the source's items

    @property
    def sha256(self) -> str:
        """Hash of the source's hash and the votes'; known once `items` has come to its end."""
        both = f"{self.source.sha256}+{self.file.sha256}"
        return hashlib.sha256(both.encode()).hexdigest()

    def stamp(self) -> str:
        """The source's, and path, size and time of the votes."""
        return f"{self.source.stamp()}+{stamp_of([self.file.path])}"

    def expected(self, items: int) -> int | None:
        """The source's, less the share that has been left out so far."""
        expected = self.source.expected(self._read)
        return None if expected is None or not self._read else expected * items // self._read

    def items(self) -> Iterator[Item]:
        """Yield the source's items that have a target, with their votes.

        Raises:
            UserError: the votes cannot be read, or are not those of the source's rows.
        """
        records = cast("Generator[Record, None, None]", self.file.records())
        with contextlib.closing(records):  # at once where a row is refused, and not by the way
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
                raise refusal(shown, f"it has {counted:,} rows and none for {item.where}", _MEND)
            if item.split not in (None, votes.split):
                what = f"it is of {votes.split}, and {item.where} of {item.split}"
                raise refusal(votes.where, what, "give the votes and the images of the same rows")
            target = None if self.target == "labels" else target_of(votes.counts, self.target)
            if isinstance(target, str):
                left_out[target] += 1
            else:
                yield self._joined(item, votes.counts, target)
        counted += sum(1 for _ in rows)
        known = self._read + sum(self.source.left_out.values())  # rows left out have votes, too
        if counted != known:
            what = f"it has {counted:,} rows where {self.source.name} has {known:,}"
            raise refusal(shown, what, "give the votes and the images of the same rows")
        self.kind = f"{self.source.kind}+ferplus"  # a CSV's kind is known by its header
        self.left_out = {**self.source.left_out, **left_out}

    def _joined(self, item: Item, votes: list[int], target: list[float] | None) -> Item:
        facts = {**(item.facts or {}), "votes": votes}
        if target is None:
            return item._replace(facts=facts)
        if self.target == "soft":
            facts["target"] = target
        return item._replace(label=target.index(max(target)), facts=facts)
