"""The first pass: a source is read once, decoded by worker processes into a file of raw pixels.

Shards can then be written in any order and any number of times, without the source and without
holding the images in memory.
"""

import contextlib
import json
import os
import secrets
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from pattlite_dist.console import Progress
from pattlite_dist.errors import UserError
from pattlite_dist.files import atomic_write, write_text
from pattlite_dist.shards.manifest import SPLIT_NAMES, ImageInfo
from pattlite_dist.shards.pool import parallel
from pattlite_dist.shards.sources.base import Decoder, Item, Source
from pattlite_dist.shards.survey import (
    SEEN_CONVERTED,
    UNSPLIT,
    Survey,
    contrast,
    digest,
)

_PIECE = 256  # items per task: megabytes, so that passing them on is little of the work


@dataclass(frozen=True)
class Spool:
    """A file of uint8 images, one after another."""

    path: Path
    image: ImageInfo

    def size(self, images: int) -> int:
        """The size of this many images in bytes."""
        channels, height, width = self.image.shape
        return images * channels * height * width

    def read(self, samples: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The images of these samples, uint8 [n, C, H, W]."""
        images = np.empty((len(samples), *self.image.shape), np.uint8)
        size = self.size(1)
        fix = "remove its folder and run the command again"
        try:
            with self.path.open("rb") as stream:
                # Not memory-mapped: mapped pages would count as memory of this process.
                for image, sample in zip(images, samples.tolist(), strict=True):
                    stream.seek(sample * size)
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


def _decode(task: _Task) -> tuple[bytes, bytes]:
    """Write a task's images to the spool; returns their digests and SEEN bits."""
    shape = task.spool.image.shape
    images = np.empty((len(task.items), *shape), np.uint8)
    converted = np.zeros(len(task.items), np.uint8)
    for index, item in enumerate(task.items):
        images[index], was = task.decode(item)
        converted[index] = SEEN_CONVERTED * was
    with task.spool.open("r+b") as stream:
        stream.seek(task.spool.size(task.begin))
        stream.write(images.tobytes())
    return b"".join(map(digest, images)), (contrast(images) | converted).tobytes()


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

    def survey(self, digests: bytes, seen: bytes) -> Survey:
        rows, labels, splits, groups = np.array(self.numbers, np.int64).T
        return Survey(
            rows=rows,
            labels=labels,
            splits=splits.astype(np.int8),
            groups=groups,
            digests=np.frombuffer(digests, np.uint64).reshape(-1, 2),
            seen=np.frombuffer(seen, np.uint8),
            facts=self.facts,
        )


def fill(source: Source, spool: Spool, jobs: int, progress: Progress) -> Survey:
    """Read a whole source, writing its pixels to the spool.

    Raises:
        UserError: it has no samples, a sample is bad, or the disk is full.
    """
    notes, digests, seen = _Notes(source), bytearray(), bytearray()
    with spool.open("xb"):
        pass

    def tasks() -> Iterator[_Task]:
        items, begin = source.items(), 0
        while piece := list(islice(items, _PIECE)):
            notes.take(piece)
            yield _Task(spool, begin, piece, source.decode)
            begin += len(piece)

    for found, marks in parallel(_decode, tasks(), jobs):
        digests += found
        seen += marks
        progress("read", len(seen), source.expected(len(seen)))
    if not seen:
        raise UserError(f"{source.name} has no samples; copy or download it again")
    with spool.open("r+b") as stream:
        os.fsync(stream.fileno())  # before anything records that it is complete
    return notes.survey(bytes(digests), bytes(seen))


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
