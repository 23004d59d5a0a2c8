"""Check a shard set against its manifest: every byte, every image, everything about a sample."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from pattlite_dist.console import Progress
from pattlite_dist.errors import UserError, unreadable
from pattlite_dist.shards.companions import outdated
from pattlite_dist.shards.manifest import (
    SPLIT_NAMES,
    Findings,
    ImageInfo,
    Manifest,
    ShardInfo,
    SplitName,
    load_manifest,
)
from pattlite_dist.shards.pool import parallel
from pattlite_dist.shards.survey import digest
from pattlite_dist.shards.tario import BLANK, CONFLICT, LEAK, NEAR_BLANK, decode_shard, has_targets

T = TypeVar("T")
_FIX = "create the shards again"


class Place(Protocol):
    """Where a shard set is stored. Picklable, because it is passed to other processes."""

    def read(self, name: str, parse: Callable[[bytes], T], most: int = -1) -> T:
        """The result of `parse` on a file's bytes; a `UserError` if they are not available."""
        ...

    def shown(self, name: str) -> str:
        """The location of a file in messages."""
        ...


@dataclass(frozen=True)
class Folder:
    """A shard set in a local folder."""

    root: Path

    def read(self, name: str, parse: Callable[[bytes], T], most: int = -1) -> T:
        """The result of `parse` on all of a file's bytes."""
        return parse(read_shard_file(self.root / name))

    def shown(self, name: str) -> str:
        """The file's path."""
        return str(self.root / name)


class Problem(NamedTuple):
    """What is wrong with a shard; `name` is empty if no shard of the manifest is at fault."""

    name: str
    line: str


class _Task(NamedTuple):
    place: Place
    split: SplitName
    shard: ShardInfo
    image: ImageInfo
    labels: list[str]
    soft: bool


class _Seen(NamedTuple):
    """What was read from a good shard: the row, marks and pixel digest of each sample."""

    rows: NDArray[np.int64]
    marks: NDArray[np.uint8]
    one_value: NDArray[np.bool_]
    digests: list[bytes]


def verify_shards(
    folder: Path, jobs: int = 1, progress: Progress = lambda what, done, total: None
) -> tuple[Manifest, list[Problem]]:
    """Check a local folder, and that it contains no other shards; see `check_shards`.

    Raises:
        UserError: there is no readable manifest.
    """
    manifest = load_manifest(folder)
    problems = check_shards(Folder(folder), manifest, jobs, progress)
    return manifest, problems + stray_shards(folder, manifest)


def check_shards(
    place: Place,
    manifest: Manifest,
    jobs: int = 1,
    progress: Progress = lambda what, done, total: None,
) -> list[Problem]:
    """Compare sizes, hashes, counts, every image and every sample's JSON with the manifest.

    Returns:
        What is wrong, in the order of the manifest; empty if all is well. The findings about a
        split as a whole are compared only if all of its shards are good.
    """
    splits = [name for name in SPLIT_NAMES if manifest.shards.get(name)]
    tasks = [
        _Task(place, split, shard, manifest.image, manifest.labels, has_targets(manifest))
        for split in splits
        for shard in manifest.shards[split]
    ]
    results = parallel(_check, tasks, min(jobs, max(len(tasks), 1)))
    total, done = sum(task.shard.samples for task in tasks), 0
    problems: list[Problem] = []
    for split in splits:
        seen: list[_Seen] = []
        findings = manifest.findings.get(split, Findings())
        for shard in manifest.shards[split]:
            result = next(results)
            line = result if isinstance(result, str) else _row_problem(result, findings, manifest)
            if line is None:
                assert isinstance(result, _Seen)
                seen.append(result)
            else:
                where = "" if isinstance(result, str) else f"{place.shown(shard.name)}: "
                problems.append(Problem(shard.name, where + line))
            done += shard.samples
            progress("verify", done, total)
        if len(seen) == len(manifest.shards[split]):
            lines = _split_problems(seen, findings, manifest.version)
            problems += [Problem("", f"{place.shown(split)}: {line}; {_FIX}") for line in lines]
    return problems


def _check(task: _Task) -> "_Seen | str":
    """What was read from a shard, or a line about what is wrong with it."""
    where = task.place.shown(task.shard.name)
    try:
        return task.place.read(
            task.shard.name, lambda data: _look(data, task, where), task.shard.bytes + 1
        )
    except UserError as error:
        return str(error)


def _look(data: bytes, task: _Task, where: str) -> _Seen:
    block = decode_shard(data, task.shard, task.image, where, task.soft)
    rows = np.empty(task.shard.samples, np.int64)
    for i, (key, facts) in enumerate(block.facts.items()):
        row, *said = (facts.get(name) for name in ("row", "split", "label"))
        needed = [task.split, task.labels[block.labels[i]]]
        if type(row) is not int or row < 0 or key != f"{row:08d}" or said != needed:
            raise UserError(
                f"{where}: the JSON of sample {key} says {row!r}, {said[0]!r}, {said[1]!r}, but it "
                f"is a sample of {needed[0]} with the label {needed[1]}; {_FIX}"
            )
        rows[i] = row
    pixels = block.images.reshape(len(block.images), -1)
    one_value = (pixels == pixels[:, :1]).all(axis=1)
    return _Seen(rows, block.flags, one_value, [digest(image) for image in block.images])


def _row_problem(seen: _Seen, findings: Findings, manifest: Manifest) -> str | None:
    """The first sample whose marks do not match its pixels or the rows in the manifest."""
    marking = manifest.options.blanks != "keep"
    blank = set(findings.blank_rows)
    near_blank = set(findings.near_blank_rows)
    dropped = set(findings.dropped_rows)
    for row, mark, one_value in zip(
        seen.rows.tolist(), seen.marks.tolist(), seen.one_value.tolist(), strict=True
    ):
        if row in dropped:
            return f"row {row} is here, but the manifest says that it was left out; {_FIX}"
        if (row in blank) != one_value:
            said = "blank" if row in blank else "not blank"
            return f"the manifest wrongly says that the image of row {row} is {said}; {_FIX}"
        if bool(mark & BLANK) != (marking and row in blank):
            return f"row {row} {_marked(mark, BLANK)} blank, its manifest says otherwise; {_FIX}"
        if bool(mark & NEAR_BLANK) != (marking and row in near_blank):
            told = _marked(mark, NEAR_BLANK)
            return f"row {row} {told} nearly blank, its manifest says otherwise; {_FIX}"
    return None


def _marked(mark: int, bit: int) -> str:
    return "is marked as" if mark & bit else "is not marked as"


def _split_problems(seen: list[_Seen], findings: Findings, version: int) -> Iterator[str]:
    """Differences between the shards of a split, taken together, and its findings."""
    rows = np.concatenate([part.rows for part in seen])
    marks = np.concatenate([part.marks for part in seen])
    distinct = len({value for part in seen for value in part.digests})
    twice = len(rows) - len(np.unique(rows))
    if twice:
        yield f"{twice:,} rows appear more than once"
    pairs = [("leaks", int(((marks & LEAK) > 0).sum()), findings.leaks)]
    if version > 1:  # the first version did not look for these
        pairs += [
            ("copies", len(rows) - distinct, findings.copies),
            ("conflicts", int(((marks & CONFLICT) > 0).sum()), findings.conflicts),
        ]
    for what, found, said in pairs:
        if found != said:
            yield f"{found:,} {what} in its shards, {said:,} in its manifest"


def stray_shards(folder: Path, manifest: Manifest) -> list[Problem]:
    """One line for each file that would mislead another reader.

    That is a tar file that the manifest does not name, which a reader that is given `train-*.tar`
    would treat as part of the set, and a companion that contradicts the manifest.
    """
    named = {shard.name for shard in manifest.all_shards()}
    strays = [
        Problem("", f"{path} is not a shard of this set; move it elsewhere or remove it")
        for path in sorted(folder.glob("*.tar"))
        if path.name not in named
    ]
    return strays + [
        Problem(
            "", f"{folder / name} does not match the manifest; remove it, or create the set again"
        )
        for name in outdated(folder, manifest)
    ]


def wrong_sizes(folder: Path, shards: list[ShardInfo]) -> list[str]:
    """One line for each shard that is missing or has the wrong size; opens none of them."""
    lines = []
    for shard in shards:
        path = folder / shard.name
        size = path.stat().st_size if path.is_file() else None
        if size != shard.bytes:
            found = "is missing" if size is None else f"has {size} bytes"
            lines.append(
                f"{path} {found}, its manifest says {shard.bytes} bytes; create the shards again"
            )
    return lines


def read_shard_file(path: Path) -> bytes:
    """The bytes of a local shard.

    Raises:
        UserError: it is missing or cannot be read; names it.
        Unreachable: its file system does not answer.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing although its manifest names it; create the shards again"
        ) from None
    except OSError as error:
        raise unreadable(path, error, "check its permissions") from error
