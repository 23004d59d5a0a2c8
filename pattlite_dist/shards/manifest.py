"""The manifest of a shard folder; the only module that knows its schema."""

import hashlib
import json
import math
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator

from pattlite_dist.errors import UserError, unreadable
from pattlite_dist.files import parse_json, write_text

MANIFEST_NAME = "manifest.json"
SplitName = Literal["train", "val", "test"]
SPLIT_NAMES: tuple[SplitName, ...] = get_args(SplitName)
LARGEST_SIDE = 1 << 20  # pixels; how many an image may have follows from the bytes of its shard
# A sample is three members of a tar, each of a header and at least one block of 512 bytes.
_SMALLEST_SAMPLE = 3 * 2 * 512
_DENSEST = 1032  # bytes that a byte of a PNG's Deflate stream can stand for, at most

Count = Annotated[int, Field(ge=0, lt=1 << 63)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ShardInfo(_Model):
    """One tar file, with enough information to check it before any of it is used."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.tar$")
    samples: int = Field(gt=0, lt=1 << 63)
    bytes: int = Field(gt=0, le=1 << 50)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    class_counts: list[int]


class ImageInfo(_Model):
    """The shape of every image, as uint8 [channels, height, width]."""

    channels: Literal[1, 3]
    height: int = Field(gt=0, le=LARGEST_SIDE)
    width: int = Field(gt=0, le=LARGEST_SIDE)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return (self.channels, self.height, self.width)


class SourceInfo(_Model):
    """Where the samples came from; `sha256` is of the content, however it was packed.

    `left_out` counts the samples that are not in the set, by reason, such as "no label".
    """

    kind: str
    name: str
    sha256: str
    rows: Count
    left_out: dict[str, Count] = Field(default_factory=dict)


class Options(_Model):
    """The user's choices; the same source and options give the same bytes.

    Attributes:
        blanks: images with little or no contrast are marked (`flag`), kept unmarked (`keep`), or
            left out of train and marked in val and test (`drop`).
        leaks: val and test images with an identical copy in train are marked (`flag`), kept
            unmarked (`keep`), or their copies are left out of train (`drop-train`).
        val_fraction, test_fraction: of the samples that have no split in the source.
        seed: for cutting those splits.
        reading: options of the source's reader, as strings.
    """

    blanks: Literal["flag", "keep", "drop"] = "flag"
    leaks: Literal["flag", "keep", "drop-train"] = "flag"
    val_fraction: float = Field(default=0.1, gt=0, lt=1)
    test_fraction: float = Field(default=0.1, gt=0, lt=1)
    seed: int = Field(default=0, ge=0)
    reading: dict[str, str] = Field(default_factory=dict)


class Findings(_Model):
    """What was found in one split; rows are positions in the source.

    Attributes:
        blank_rows: all pixels have the same value.
        near_blank_rows: the standard deviation of the pixels is below `survey.NEAR_BLANK`.
        dropped_rows: left out of the set.
        leaks: samples marked as having an identical image in train.
        copies: samples beyond the first of each group of identical images in the split.
        conflicts: samples with an identical image, in any split, that has another label.
        converted: images whose size or mode had to be changed.
    """

    blank_rows: list[Count] = Field(default_factory=list)
    near_blank_rows: list[Count] = Field(default_factory=list)
    dropped_rows: list[Count] = Field(default_factory=list)
    leaks: Count = 0
    copies: Count = 0
    conflicts: Count = 0
    converted: Count = 0

    def in_the_set(self, rows: list[int]) -> int:
        """How many of these rows have not been left out."""
        return len(set(rows).difference(self.dropped_rows))


class Identical(_Model):
    """Identical images in the whole source.

    Attributes:
        distinct: number of distinct images.
        groups: distinct images shared by more than one sample.
        copies: samples beyond the first of each group.
        conflicting_groups, conflicting_samples: groups with more than one label, and their samples.
    """

    distinct: Count
    groups: Count
    copies: Count
    conflicting_groups: Count
    conflicting_samples: Count


class Manifest(_Model):
    """`manifest.json`, written last: a folder without one is not a finished shard set."""

    format: Literal["pattlite-shards"] = "pattlite-shards"
    version: Literal[1, 2] = 2  # a version 1 set is a version 2 set with less in it
    created_by: str
    source: SourceInfo
    options: Options = Options()
    labels: list[str] = Field(min_length=2)
    image: ImageInfo
    samples_per_shard: int = Field(gt=0, lt=1 << 63)
    shards: dict[SplitName, list[ShardInfo]]
    findings: dict[SplitName, Findings]
    identical: Identical | None = None
    votes: list[str] = Field(default_factory=list)  # columns of the votes in samples' JSON

    @field_validator("findings")
    @classmethod
    def _of_every_split(cls, found: dict[SplitName, Findings]) -> dict[SplitName, Findings]:
        return {**{name: Findings() for name in SPLIT_NAMES}, **found}

    def all_shards(self) -> list[ShardInfo]:
        """The shards of every split."""
        return [shard for shards in self.shards.values() for shard in shards]

    def samples(self, split: SplitName) -> int:
        """The number of samples in a split."""
        return sum(shard.samples for shard in self.shards.get(split, []))

    def class_counts(self, split: SplitName) -> list[int]:
        """Samples per class of a split, in label order."""
        columns = [shard.class_counts for shard in self.shards.get(split, [])]
        return [sum(column) for column in zip(*columns, strict=True)] or [0] * len(self.labels)

    def fingerprint(self) -> str:
        """Hash of what training and evaluation see: the shards of each split, in order.

        It ignores who created the set and from what, so that the same bytes are the same data.
        """
        content = {
            "labels": self.labels,
            "image": self.image.shape,
            "shards": {name: [s.sha256 for s in self.shards[name]] for name in sorted(self.shards)},
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """Write `manifest.json` into `folder`, whole or not at all."""
        write_text(folder / MANIFEST_NAME, self.model_dump_json(indent=1) + "\n")


def load_manifest(folder: Path) -> Manifest:
    """Read and check `folder/manifest.json`.

    Raises:
        UserError: it is missing, not JSON, of another version, or inconsistent.
        Unreachable: its file system does not answer.
    """
    path = folder / MANIFEST_NAME
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{folder} is not a finished shard set: it has no {MANIFEST_NAME}; create one with "
            f"`pattlite shards create SOURCE {folder}`"
        ) from None
    except OSError as error:
        raise unreadable(path, error, "check its permissions") from error
    return parse_manifest(text, str(path))


def parse_manifest(text: bytes, path: str) -> Manifest:
    """Check the bytes of a manifest; `path` says where they came from in messages.

    Raises:
        UserError: they are not JSON, of another version, or inconsistent.
    """
    manifest = parse_json(text, Manifest, path, "create the shards again")
    _check_counts(manifest, path)
    return manifest


def _check_counts(manifest: Manifest, path: str) -> None:
    seen: set[str] = set()
    for shards in manifest.shards.values():
        for shard in shards:
            counts = shard.class_counts
            if (
                len(counts) != len(manifest.labels)
                or sum(counts) != shard.samples
                or min(counts) < 0
            ):
                raise UserError(
                    f"{path}: {shard.name} has {shard.samples} samples but class counts {counts}; "
                    "create the shards again"
                )
            pixels = shard.samples * math.prod(manifest.image.shape)
            if shard.samples * _SMALLEST_SAMPLE > shard.bytes or pixels > shard.bytes * _DENSEST:
                raise UserError(
                    f"{path}: {shard.name} has {shard.bytes:,} bytes, too few for "
                    f"{shard.samples:,} images of {manifest.image.width}x{manifest.image.height}; "
                    "create the shards again"
                )
            if shard.name in seen:
                raise UserError(f"{path}: {shard.name} is named twice; create the shards again")
            seen.add(shard.name)
