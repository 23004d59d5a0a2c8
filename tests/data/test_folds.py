from pathlib import Path

import numpy as np
import pytest

from pattlite_dist.config import Config
from pattlite_dist.data.augment import Preprocess
from pattlite_dist.data.folds import fold_of, folds_of
from pattlite_dist.data.module import FERData
from pattlite_dist.runtime.world import World
from tests.data.conftest import ShardSet

FOLDS = 3


def a_stream(shards: ShardSet, cache: Path, fold: int, balance: float = 0) -> FERData:
    data = {
        "shards": str(shards.folder), "cache": str(cache), "window": 40,
        "folds": FOLDS, "fold": fold, "balance": balance,
    }  # fmt: skip
    trainer = {"global_batch": 8, "accelerator": "cpu"}
    config = Config.model_validate({"seed": 4, "data": data, "trainer": trainer})
    return FERData(config, World(), Preprocess(48, (0.5,) * 3, (0.5,) * 3), shards.manifest)


def test_copies_of_an_image_are_in_one_fold_and_folds_are_about_as_large() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3000, 1, 4, 4), dtype=np.uint8)
    folds = np.array([fold_of(image, 5) for image in images])
    assert (np.abs(np.bincount(folds, minlength=5) - 600) < 100).all()
    assert all(fold_of(image.copy(), 5) == fold for image, fold in zip(images, folds, strict=True))
    assert fold_of(np.zeros((1, 4, 4), np.uint8), 5) == 4  # for good: runs depend on it


def test_a_run_sees_each_sample_outside_its_fold_once_an_epoch(
    shard_set: ShardSet, cache: Path
) -> None:
    seen = []
    for fold in range(FOLDS):
        data = a_stream(shard_set, cache, fold)
        plan = data.plan()
        outside = np.flatnonzero(folds_of(data.reader("train"), FOLDS) != fold)
        for epoch in (0, 1):
            taken = np.concatenate(
                [plan.batch(epoch, step)[: plan.counting(step)] for step in range(plan.steps)]
            )
            assert np.array_equal(np.sort(taken), outside)
        seen.append(shard_set.manifest.samples("train") - len(outside))
        assert (data.said_of_fold() or "").startswith(f"leaves out fold {fold} of 3: {seen[-1]} of")
    assert sum(seen) == shard_set.manifest.samples("train")


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_a_batch_of_what_is_kept(shard_set: ShardSet, cache: Path, world: int) -> None:
    plan = a_stream(shard_set, cache, 1).plan()
    for step in range(plan.steps):
        parts = [plan.batch(0, step, rank, world) for rank in range(world)]
        assert np.array_equal(np.concatenate(parts), plan.batch(0, step))


def test_what_is_kept_may_be_balanced(shard_set: ShardSet, cache: Path) -> None:
    data = a_stream(shard_set, cache, 1, balance=1)
    plan, reader = data.plan(), data.reader("train")
    kept = np.flatnonzero(folds_of(reader, FOLDS) != 1)
    assert plan.samples == len(kept)
    taken = np.concatenate(
        [plan.batch(0, step)[: plan.counting(step)] for step in range(plan.steps)]
    )
    assert np.isin(taken, kept).all()
    labels = reader.labels()
    counts = np.bincount(labels[taken])
    assert np.ptp(counts[np.unique(labels[kept])]) <= 1
