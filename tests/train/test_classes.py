from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pattlite_dist.config import Config, parse_config
from pattlite_dist.errors import UserError
from pattlite_dist.shards.manifest import Manifest, load_manifest
from pattlite_dist.train.classes import class_weights, said


def manifest(shards: Path, counts: list[int]) -> Manifest:
    """A set with these training samples of its first classes."""
    found = load_manifest(shards)
    counts = counts + [0] * (len(found.labels) - len(counts))
    shard = found.shards["train"][0].model_copy(
        update={"class_counts": counts, "samples": sum(counts)}
    )
    return found.model_copy(update={"shards": {**found.shards, "train": [shard]}})


def config(weights: Any, balance: float = 0) -> Config:
    return parse_config(
        {"optim": {"class_weights": weights}, "data": {"balance": balance, "shards": "here"}}, "it"
    )


@pytest.mark.parametrize("balance", [0, 0.3, 1])
@pytest.mark.parametrize("weights", ["inverse", "sqrt", [3, 1, 5, 0.1, 1, 1, 1]])
def test_the_mean_over_the_samples_of_an_epoch_is_one(
    face_shards: Path, weights: Any, balance: float
) -> None:
    found = class_weights(config(weights, balance), manifest(face_shards, [90, 5, 30, 9]))
    assert found is not None
    places = np.array([90, 5, 30, 9]) ** (1 - balance)
    if balance in (0, 1):  # otherwise places are rounded
        assert np.average(found[:4], weights=places) == pytest.approx(1, abs=0.01)
    assert found[4:] == [1.0] * (len(found) - 4)  # without samples


def test_rare_classes_weigh_more_by_their_number_or_its_root(face_shards: Path) -> None:
    counts = manifest(face_shards, [80, 20])
    inverse = class_weights(config("inverse"), counts)
    root = class_weights(config("sqrt"), counts)
    assert inverse is not None
    assert root is not None
    assert inverse[:2] == pytest.approx([100 / 160, 100 / 40])
    assert root[1] / root[0] == pytest.approx(2)
    # A balanced order leaves nothing to weigh.
    balanced = class_weights(config("inverse", 1), counts)
    assert balanced is not None
    assert balanced[:2] == pytest.approx([1, 1])
    assert class_weights(config("none"), counts) is None


def test_a_list_must_be_as_long_as_that_of_the_classes_and_positive(face_shards: Path) -> None:
    with pytest.raises(UserError, match="lists 2 weights, but here has 7 classes; give one for"):
        class_weights(config([1, 2]), load_manifest(face_shards))
    with pytest.raises(UserError, match=r"not all of 1, 0 are above 0"):
        config([1, 0])


def test_a_run_says_how_it_treats_classes(face_shards: Path) -> None:
    counts = manifest(face_shards, [80, 20])
    assert said(config("none"), counts) == []
    order, loss = said(config("inverse", 0.5), counts)
    first, second = counts.labels[:2]
    assert "samples are not seen once an epoch each" in order
    assert f"{first} 67 for 80, {second} 33 for 20, " in order
    assert f"(optim.class_weights): {first} 0.746, {second} 1.52, " in loss
