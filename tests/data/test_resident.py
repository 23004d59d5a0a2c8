from pathlib import Path

import numpy as np
import pytest
import torch

from pattlite_dist.cli import main
from pattlite_dist.data.cache import Cache
from pattlite_dist.data.fetch import Origin
from pattlite_dist.data.plan import TrainPlan
from pattlite_dist.data.reader import ShardReader
from pattlite_dist.data.resident import Resident, fits
from pattlite_dist.data.sampler import TrainSampler
from pattlite_dist.errors import UserError
from tests.conftest import tiny
from tests.data.conftest import ShardSet
from tests.gpu.pretended import CUDA, machine
from tests.train.harness import assert_same_training


def reader(shards: ShardSet, cache: Path) -> ShardReader:
    return shards.reader("train", cache)


def test_each_place_has_the_samples_that_a_reader_gathers(shard_set: ShardSet, cache: Path) -> None:
    plan = TrainPlan(shard_set.sizes("train"), seed=4, window=40, global_batch=16)
    resident = Resident(reader(shard_set, cache), torch.device("cpu"))
    truth = shard_set.truth["train"]
    for place in TrainSampler(plan, 1, 2):
        batch = resident[place]
        assert "image" not in batch
        samples = resident.fill(batch["id"])
        np.testing.assert_array_equal(batch["id"], plan.batch(0, place.step, 1, 2))
        np.testing.assert_array_equal(samples["image"], truth.images[place.ids])
        np.testing.assert_array_equal(samples["label"], truth.labels[place.ids])


@pytest.mark.usefixtures("small_network")
def test_a_run_whose_set_is_resident_is_the_same_run(face_shards: Path, tmp_path: Path) -> None:
    classes: dict[str, object] = {"data.balance": 0.8, "optim.class_weights": "sqrt"}
    for name, resident in (("streamed", "false"), ("resident", "true")):
        options = {**classes, "data.resident": resident}
        assert main(tiny(face_shards, tmp_path, name, **options)) == 0
    assert_same_training(tmp_path / "streamed", tmp_path / "resident")


def test_a_bad_shard_stops_before_the_first_step(
    shard_set: ShardSet, copied: Path, tmp_path: Path
) -> None:
    (copied / "train-000001.tar").write_bytes(b"")
    origin, cache = Origin(str(copied)), Cache(tmp_path)
    with pytest.raises(UserError, match=r"train-000001\.tar"):
        Resident(ShardReader(origin, shard_set.manifest, "train", cache), torch.device("cpu"))
    skipping = ShardReader(origin, shard_set.manifest, "train", cache, "skip")
    resident = Resident(skipping, torch.device("cpu"))
    plan = TrainPlan(shard_set.sizes("train"), seed=4, window=40, global_batch=16)
    batches = [resident[place] for place in TrainSampler(plan, 0, 1)]
    ids = torch.cat([batch["id"] for batch in batches])
    counts = torch.cat([batch["counts"] for batch in batches])
    assert not counts[(ids >= 16) & (ids < 32)].any()
    assert sum(batch["left_out"] for batch in batches) == 16


def test_only_a_gpu_with_room_gets_the_set_by_itself(
    shard_set: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not fits(shard_set.manifest, torch.device("cpu"))
    with machine():
        assert fits(shard_set.manifest, CUDA)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (900_000, 80 << 30))
        assert not fits(shard_set.manifest, CUDA)  # 100 images of 48 x 48
