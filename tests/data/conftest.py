"""A small shard set with known samples, so that only the reader can be wrong."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from numpy.typing import NDArray

from pattlite_dist.data import reader as reader_module
from pattlite_dist.data.cache import Cache
from pattlite_dist.data.fetch import Origin, fetch_manifest
from pattlite_dist.data.reader import Gathered, ShardReader
from pattlite_dist.shards.create import create_shards
from pattlite_dist.shards.manifest import ImageInfo, Manifest, ShardInfo, SplitName
from pattlite_dist.shards.sources.fer2013 import FER2013_LABELS
from pattlite_dist.shards.tario import BLANK, COPY, LEAK, Block, decode_shard
from tests.sources import ArraySource

# A busy, shared machine may need any time for an example; pytest-timeout stops what hangs.
settings.register_profile(
    "busy", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60
)
settings.load_profile("busy")

SAMPLES: dict[SplitName, int] = {"train": 100, "val": 37, "test": 41}
BLANK_VAL, LEAKED_TEST = 5, 20  # places in their splits
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")


class MemorySource(ArraySource):
    """Random images; one val image is blank and one test image is also in train."""

    def __init__(self, shape: tuple[int, int, int], samples: dict[SplitName, int]) -> None:
        random = np.random.default_rng(7)
        self.blocks: dict[SplitName, Block] = {
            split: Block(
                random.integers(0, 256, (n, *shape), np.uint8),
                random.integers(0, len(FER2013_LABELS), n),
                np.zeros(n, np.uint8),
            )
            for split, n in samples.items()
        }
        if "val" in samples:
            self.blocks["val"].images[BLANK_VAL] = 77
            self.blocks["val"].flags[BLANK_VAL] = BLANK
        if "test" in samples:
            self.blocks["test"].images[LEAKED_TEST] = self.blocks["train"].images[3]
            self.blocks["test"].labels[LEAKED_TEST] = self.blocks["train"].labels[3]
            self.blocks["test"].flags[LEAKED_TEST] = LEAK | COPY
            self.blocks["train"].flags[3] = COPY
        super().__init__(
            np.concatenate([block.images for block in self.blocks.values()]),
            [label for block in self.blocks.values() for label in block.labels.tolist()],
            [split for split, block in self.blocks.items() for _ in block.labels],
            FER2013_LABELS,
            cut=(),
        )


@dataclass(frozen=True)
class ShardSet:
    folder: Path
    manifest: Manifest
    truth: dict[SplitName, Block]

    def reader(self, split: SplitName, cache: Path) -> ShardReader:
        return ShardReader(Origin(str(self.folder)), self.manifest, split, Cache(cache))

    def sizes(self, split: SplitName) -> tuple[int, ...]:
        return tuple(shard.samples for shard in self.manifest.shards[split])


@pytest.fixture(scope="session")
def shard_set(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """100 train, 37 val and 41 test samples, 48 x 48 grey, 16 per shard."""
    source = MemorySource((1, 48, 48), SAMPLES)
    folder = tmp_path_factory.mktemp("shards") / "grey"
    return ShardSet(folder, create_shards(source, folder, samples_per_shard=16), source.blocks)


@pytest.fixture(scope="session")
def colour_set(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """11 train samples, 3 x 5 x 7, so a shard's pixels do not end at a multiple of 8 bytes."""
    source = MemorySource((3, 5, 7), {"train": 11})
    folder = tmp_path_factory.mktemp("shards") / "colour"
    return ShardSet(folder, create_shards(source, folder, samples_per_shard=4), source.blocks)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of decoded shards for tests that do not inspect it."""
    return tmp_path_factory.mktemp("decoded")


def assert_is(gathered: Gathered, truth: Block, ids: NDArray[np.int64]) -> None:
    """Check that the gathered samples are the source's samples `ids`, in that order."""
    got, good = gathered
    assert good.all()
    np.testing.assert_array_equal(got.images, truth.images[ids])
    np.testing.assert_array_equal(got.labels, truth.labels[ids])
    np.testing.assert_array_equal(got.flags, truth.flags[ids])


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the shards that this process decodes, in order."""
    names: list[str] = []

    def spy(data: bytes, shard: ShardInfo, image: ImageInfo, where: str, soft: bool) -> Block:
        names.append(shard.name)
        return decode_shard(data, shard, image, where, soft)

    monkeypatch.setattr(reader_module, "decode_shard", spy)
    return names


@pytest.fixture
def copied(shard_set: ShardSet, tmp_path: Path) -> Path:
    """A copy of the shards that a test may break."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in shard_set.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def read_all(root: str, cache: Path, **settings: Any) -> Gathered:
    """All of train, from an address."""
    origin = Origin(root, **settings)
    reader = ShardReader(origin, fetch_manifest(origin), "train", Cache(cache))
    return reader.gather(np.arange(SAMPLES["train"]))
