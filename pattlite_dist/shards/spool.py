"""The first pass: a source is read once, decoded by worker processes into a file of raw pixels.

Shards can then be written in any order and any number of times, without the source and without
holding the images in memory.
"""

import contextlib
import json
import os
import secrets
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from pattlite_dist.console import Progress
from pattlite_dist.errors import UserError
from pattlite_dist.files import atomic_write, write_text
from pattlite_dist.shards.manifest import SPLIT_NAMES, ImageInfo
from pattlite_dist.shards.pool import parallel
from pattlite_dist.shards.sources.base import Damaged, Decoder, Item, Source
from pattlite_dist.shards.survey import (
    SEEN_CONVERTED,
    UNSPLIT,
    Survey,
    contrast,
    digest,
)

_TOLD = 10  # damaged images that are named
_PIECE = 256  # items per task: megabytes, so that passing them on is little of the work


@dataclass(frozen=True)
class Spool:
    """A file of uint8 images, one after another.

    Attributes:
        path: of the file.
        image: the form of each.
        holes: places that no sample has, because the images there were damaged; increasing.
    """

    path: Path
    image: ImageInfo
    holes: tuple[int, ...] = ()

    def size(self, images: int) -> int:
        """The size of this many images in bytes."""
        channels, height, width = self.image.shape
        return images * channels * height * width

    def read(self, samples: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The images of these samples, uint8 [n, C, H, W]."""
        images = np.empty((len(samples), *self.image.shape), np.uint8)
        size = self.size(1)
        # As many places further as there are holes before them.
        before = np.array(self.holes, np.int64) - np.arange(len(self.holes))
        places = samples + np.searchsorted(before, samples, side="right")
        fix = "remove its folder and run the command again"
        try:
            with self.path.open("rb") as stream:
                # Not memory-mapped: mapped pages would count as memory of this process.
                for image, place in zip(images, places.tolist(), strict=True):
                    stream.seek(place * size)
                    data = stream.read(size)
                    if len(data) != size:
                        raise UserError(f"{self.path} is truncated; {fix}")
                    image.reshape(-1)[:] = np.frombuffer(data, np.uint8)
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror or error}; {fix}") from error
        return images

    @contextlib.contextmanager
    def open(self, mode: str) -> Iterator[BinaryIO]:
        """Open it for writing.

        Raises:
            UserError: the disk is full, or the file is gone.
        """
        try:
            with self.path.open(mode) as stream:
                yield cast(BinaryIO, stream)
        except OSError as error:
            raise UserError(
                f"cannot write {self.path}: {error.strerror or error}; free some space or choose "
                "another folder with --work"
            ) from error


@dataclass(frozen=True)
class _Task:
    spool: Spool
    begin: int
    items: list[Item]
    decode: Decoder


class _Decoded(NamedTuple):
    """The digests and SEEN bits of a task's items, and the places and messages of damaged ones."""

    digests: bytes
    seen: bytes
    damaged: list[tuple[int, str]]


def _decode(task: _Task) -> _Decoded:
    """Write a task's images to the spool; what is damaged leaves zeros."""
    shape = task.spool.image.shape
    images = np.zeros((len(task.items), *shape), np.uint8)
    converted = np.zeros(len(task.items), np.uint8)
    damaged = []
    for index, item in enumerate(task.items):
        try:
            if item.damage:
                raise Damaged(item.damage)
            images[index], was = task.decode(item)
            converted[index] = SEEN_CONVERTED * was
        except Damaged as error:
            damaged.append((task.begin + index, str(error)))
    with task.spool.open("r+b") as stream:
        stream.seek(task.spool.size(task.begin))
        stream.write(images.tobytes())
    seen = (contrast(images) | converted).tobytes()
    return _Decoded(b"".join(map(digest, images)), seen, damaged)


class _Notes:
    """What is known about the items without decoding them."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.numbers: list[tuple[int, int, int, int]] = []
        self.facts: list[dict[str, Any]] = []
        self.groups: dict[str, int] = {}

    def take(self, items: list[Item]) -> None:
        for item in items:
            split = UNSPLIT if item.split is None else SPLIT_NAMES.index(item.split)
            group = self.groups.setdefault(item.group, len(self.groups)) if item.group else -1
            self.numbers.append((item.row, item.label, split, group))
            if item.facts is not None:
                self.facts.append(item.facts)

    def survey(self, digests: bytes, seen: bytes, holes: Sequence[int]) -> Survey:
        rows, labels, splits, groups = np.delete(np.array(self.numbers, np.int64), holes, axis=0).T
        gone = {*holes}
        return Survey(
            rows=rows,
            labels=labels,
            splits=splits.astype(np.int8),
            groups=groups,
            digests=np.delete(np.frombuffer(digests, np.uint64).reshape(-1, 2), holes, axis=0),
            seen=np.delete(np.frombuffer(seen, np.uint8), holes),
            facts=[facts for place, facts in enumerate(self.facts) if place not in gone],
        )


class Filled(NamedTuple):
    """What was read: the spool, the samples in it, and messages about the damaged ones."""

    spool: Spool
    survey: Survey
    damaged: list[str]


def fill(
    source: Source, spool: Spool, jobs: int, progress: Progress, *, skip_damaged: bool = False
) -> Filled:
    """Read a whole source, writing its pixels to the spool.

    Raises:
        UserError: it has no samples, a sample is bad, or the disk is full. Damaged samples are all
            named, unless they are to be skipped; none may be the last of its class.
    """
    notes, digests, seen = _Notes(source), bytearray(), bytearray()
    damaged: list[tuple[int, str]] = []
    with spool.open("xb"):
        pass

    def tasks() -> Iterator[_Task]:
        items, begin = source.items(), 0
        while piece := list(islice(items, _PIECE)):
            notes.take(piece)
            yield _Task(spool, begin, piece, source.decode)
            begin += len(piece)

    for found in parallel(_decode, tasks(), jobs):
        digests += found.digests
        seen += found.seen
        damaged += found.damaged
        progress("read", len(seen), source.expected(len(seen)))
    if not seen:
        raise UserError(f"{source.name} has no samples; copy or download it again")
    if damaged and not skip_damaged:
        raise _refused(source, [message for _, message in damaged], len(seen))
    with spool.open("r+b") as stream:
        os.fsync(stream.fileno())  # before anything records that it is complete
    holes = [place for place, _ in damaged]
    survey = notes.survey(bytes(digests), bytes(seen), holes)
    _check_classes(source, survey, [notes.numbers[place][1] for place in holes])
    full = replace(spool, holes=tuple(holes))
    return Filled(full, survey, [message for _, message in damaged])


def _refused(source: Source, messages: list[str], total: int) -> UserError:
    way = "leave them out with --damaged skip"
    if len(messages) == 1:
        return UserError(f"{messages[0]}, or {way.replace('them', 'it')}")
    return UserError(
        f"{len(messages):,} of {total:,} images of {source.name} are damaged, the first of them "
        f"{messages[0].rsplit('; ', 1)[0]}; replace them, or {way}",
        first_lines(messages),
    )


def first_lines(messages: Sequence[str]) -> list[str]:
    """Messages about damaged images without their cures, and how many more there are."""
    told = [message.rsplit("; ", 1)[0] for message in messages[:_TOLD]]
    more = len(messages) - _TOLD
    return told if more <= 0 else [*told, f"and {more:,} more"]


def _check_classes(source: Source, survey: Survey, damaged: list[int]) -> None:
    for label in sorted({*damaged} - {*survey.labels.tolist()}):
        raise UserError(
            f"all {damaged.count(label):,} images of the class {source.labels[label]} are damaged; "
            "replace them, or remove the class from the source"
        )


def save_survey(survey: Survey, folder: Path) -> None:
    """Save a survey in a folder, each file whole or not at all."""
    arrays = {name: value for name, value in vars(survey).items() if name != "facts"}
    with atomic_write(folder / "survey.npz") as stream:
        np.savez(stream, **arrays)
    write_text(folder / "facts.jsonl", "".join(json.dumps(facts) + "\n" for facts in survey.facts))


def load_survey(folder: Path) -> Survey | None:
    """What `save_survey` saved, or None if that is incomplete."""
    try:
        with np.load(folder / "survey.npz", allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
        facts = [json.loads(line) for line in (folder / "facts.jsonl").read_text().splitlines()]
        return Survey(**found, facts=facts)
    except (OSError, ValueError, TypeError, zipfile.BadZipFile):
        return None


def new_spool(folder: Path, image: ImageInfo) -> Spool:
    """A spool with a unique name, which left-over workers of a killed run do not write to."""
    return Spool(folder / f"pixels-{secrets.token_hex(4)}.raw", image)
