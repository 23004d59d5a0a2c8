"""A set in the loop of another program, read by webdataset."""

from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

from pattlite_dist.data import as_webdataset
from pattlite_dist.errors import UserError
from pattlite_dist.shards.manifest import SPLIT_NAMES
from tests.data.conftest import ShardSet
from tests.data.test_fetch import served

# WebDataset leaves closing its files to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@pytest.mark.parametrize("split", SPLIT_NAMES)
def test_each_split_is_a_stream_of_its_samples_with_a_length(
    shard_set: ShardSet, split: str
) -> None:
    truth = shard_set.truth[split]  # type: ignore[index]
    dataset = as_webdataset(shard_set.folder, split).decode("l8")  # type: ignore[arg-type]
    samples = list(dataset)
    assert len(dataset) == len(samples) == len(truth.labels)
    assert [sample["cls"] for sample in samples] == truth.labels.tolist()
    for sample, image in zip(samples, truth.images, strict=True):
        np.testing.assert_array_equal(sample["png"], image[0])


def test_a_loaders_workers_share_the_shards(shard_set: ShardSet) -> None:
    dataset = as_webdataset(str(shard_set.folder), "train", shard_shuffle=100).to_tuple("cls")
    loader = DataLoader(dataset, batch_size=None, num_workers=0)
    expected = shard_set.truth["train"].labels.tolist()
    assert sorted(int(label) for (label,) in loader) == sorted(expected)


def test_it_comes_over_http(shard_set: ShardSet) -> None:
    with served(shard_set.folder) as address:
        dataset = as_webdataset(address, "val")
        assert len(dataset) == len(shard_set.truth["val"].labels)


@pytest.mark.parametrize(
    ("shards", "told"),
    [
        ("s3://bucket/set", "copy the set to a folder"),
        ("pipe:cat {name}", "copy the set to a folder"),
        ("none", "is not a finished shard set"),
    ],
)
def test_what_it_cannot_read_is_the_users_error(shards: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        as_webdataset(shards, "train")


def test_a_split_without_samples_is_refused(shard_set: ShardSet, tmp_path: Path) -> None:
    manifest = shard_set.manifest
    manifest.model_copy(update={"shards": {**manifest.shards, "test": []}}).save(tmp_path)
    with pytest.raises(UserError, match="no samples of 'test'"):
        as_webdataset(tmp_path, "test")
