"""Samples of a shard set for viewing: some of each class, with their flags."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from pattlite_dist.console import Progress
from pattlite_dist.errors import UserError
from pattlite_dist.shards.manifest import Manifest, ShardInfo, SplitName
from pattlite_dist.shards.png import decode_png
from pattlite_dist.shards.tario import check_bytes, read_members
from pattlite_dist.shards.verify import Place

T = TypeVar("T")
# In the order in which they are shown; a copy is neither a leak nor a conflict.
FLAGS = ("blank", "near blank", "leak", "conflict", "copy")


@dataclass(frozen=True)
class Row:
    """Samples of one class.

    Attributes:
        label: the class.
        count: how many samples of it the split has.
        flagged: how many of them are flagged, if only those are shown.
        samples: images, uint8 [C, H, W], with their flags.
    """

    label: int
    count: int
    flagged: int | None
    samples: list[tuple[NDArray[np.uint8], tuple[str, ...]]]


class Sheet(NamedTuple):
    """Samples of one split, by class."""

    split: SplitName
    rows: list[Row]


class _Known(NamedTuple):
    """A sample that could be shown: its shard number, key and flags."""

    shard: int
    key: str
    flags: tuple[str, ...]


def flags_of(facts: dict[str, Any]) -> tuple[str, ...]:
    """The flags of a sample's JSON, in the order of FLAGS."""
    found = [
        bool(facts.get("blank")),
        bool(facts.get("near_blank")),
        bool(facts.get("leak")),
        bool(facts.get("conflict")),
    ]
    copy = facts.get("copies", 1) > 1 and not found[2] and not found[3]
    return tuple(flag for flag, there in zip(FLAGS, [*found, copy], strict=True) if there)


def choose(
    flags: list[tuple[str, ...]], columns: int, rng: np.random.Generator, flagged: bool
) -> list[int]:
    """Pick up to `columns` samples of a class, unflagged ones first.

    Flagged samples take up to a third of the places, or all with `flagged`; every combination of
    flags appears once before any is repeated.
    """
    order = rng.permutation(len(flags)).tolist()
    with_flags = [index for index in order if flags[index]]
    plain = [] if flagged else [index for index in order if not flags[index]]
    turn: dict[tuple[str, ...], int] = {}
    turns = []  # the first of each combination, then the second of each, and so on
    for index in with_flags:
        turn[flags[index]] = turn.get(flags[index], 0) + 1
        turns.append((turn[flags[index]], index))
    with_flags = [index for _, index in sorted(turns, key=lambda pair: pair[0])]
    room = columns if flagged else max(columns // 3, 1, columns - len(plain))
    shown = with_flags[:room]
    shown.sort(key=lambda index: [FLAGS.index(flag) for flag in flags[index]])
    return plain[: columns - len(shown)] + shown


def pick_samples(
    place: Place,
    manifest: Manifest,
    split: SplitName,
    columns: int,
    seed: int,
    flagged: bool = False,
    progress: Progress = lambda what, done, total: None,
) -> Sheet:
    """Choose samples of a split by class and read them.

    Args:
        place: where the shards are.
        manifest: of the shards.
        split: to choose from.
        columns: maximum number of samples per class.
        seed: for the choice.
        flagged: choose only flagged samples, and leave out classes without any.
        progress: called as samples are examined.

    Raises:
        UserError: the split has no samples, or a shard is bad.
    """
    shards = manifest.shards.get(split, [])
    if not shards:
        raise UserError(f"{place.shown(split)}: this set has no {split} samples")
    known: list[list[_Known]] = [[] for _ in manifest.labels]
    done, total = 0, manifest.samples(split)
    for number, shard in enumerate(shards):
        for label, sample in _read(place, manifest, shard, number):
            known[label].append(sample)
        done += shard.samples
        progress("look", done, total)
    rng = np.random.default_rng(seed)
    chosen = [
        [samples[index] for index in choose([s.flags for s in samples], columns, rng, flagged)]
        for samples in known
    ]
    images = {}
    for number in sorted({sample.shard for samples in chosen for sample in samples}):
        keys = {s.key for samples in chosen for s in samples if s.shard == number}
        images.update(_decode(place, manifest, shards[number], keys))
    rows = [
        Row(
            label,
            len(known[label]),
            sum(bool(s.flags) for s in known[label]) if flagged else None,
            [(images[s.key], s.flags) for s in samples],
        )
        for label, samples in enumerate(chosen)
        if samples or not flagged
    ]
    return Sheet(split, rows)


def _read(
    place: Place, manifest: Manifest, shard: ShardInfo, number: int
) -> list[tuple[int, _Known]]:
    """The label and other facts of each sample in a shard; no image is decoded."""

    def parse(parts: dict[str, dict[str, memoryview]]) -> list[tuple[int, _Known]]:
        found = []
        for key, members in parts.items():
            label = int(bytes(members["cls"]))
            manifest.labels[label]  # raises IndexError if it is out of range
            facts = json.loads(bytes(members["json"]))
            found.append((label, _Known(number, key, flags_of(facts))))
        return found

    return _parsed(place, shard, parse)


def _decode(
    place: Place, manifest: Manifest, shard: ShardInfo, keys: set[str]
) -> dict[str, NDArray[np.uint8]]:
    return _parsed(
        place,
        shard,
        lambda parts: {key: decode_png(parts[key]["png"], manifest.image) for key in keys},
    )


def _parsed(
    place: Place, shard: ShardInfo, parse: Callable[[dict[str, dict[str, memoryview]]], T]
) -> T:
    where = place.shown(shard.name)

    def whole(data: bytes) -> T:
        check_bytes(data, shard, where)
        try:
            return parse(read_members(data))
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise UserError(f"{where}: {error}; create the shards again") from error

    return place.read(shard.name, whole, shard.bytes + 1)
