import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric.utilities.types import _Stateful
from torch.utils.data import _utils

from pattlite_dist.config import Config
from pattlite_dist.data.augment import Preprocess
from pattlite_dist.data.batch import Batch
from pattlite_dist.data.cache import Cache
from pattlite_dist.data.fetch import Origin
from pattlite_dist.data.loader import TrainLoader, eval_loader
from pattlite_dist.data.module import FERData
from pattlite_dist.data.plan import TrainPlan
from pattlite_dist.data.reader import ShardReader
from pattlite_dist.data.sampler import TrainSampler
from pattlite_dist.errors import UserError
from pattlite_dist.runtime.signals import STOPPING
from pattlite_dist.runtime.world import World
from tests.conftest import environment
from tests.data.conftest import SAMPLES, ShardSet
from tests.data.soft import with_targets
from tests.starts import Zygote

GLOBAL_BATCH, STEPS = 16, 7  # of 100 samples; the last batch has 4


@pytest.fixture
def loaders(shard_set: ShardSet, cache: Path) -> Iterator["Make"]:
    make = Make(shard_set, cache)
    yield make
    make.close()


class Make:
    """Makes loaders and ends their workers after the test."""

    def __init__(self, shards: ShardSet, cache: Path) -> None:
        self.shards, self.cache = shards, cache
        self.made: list[TrainLoader] = []

    def plan(self, **changes: Any) -> TrainPlan:
        settings = {"seed": 4, "window": 40, "global_batch": GLOBAL_BATCH, **changes}
        return TrainPlan(self.shards.sizes("train"), **settings)

    def __call__(
        self,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        manifest: str = "here",
        start_method: str | None = None,
        **changes: Any,
    ) -> TrainLoader:
        reader = self.shards.reader("train", self.cache)
        plan = self.plan(**changes)
        loader = TrainLoader(reader, plan, rank, world, workers, start_method, manifest)
        self.made.append(loader)
        return loader

    def close(self) -> None:
        for loader in self.made:
            if loader._iterator is not None and loader.num_workers:
                loader._iterator._shutdown_workers()


def place(batch: Batch) -> tuple[int, int]:
    return batch["epoch"], batch["step"]


def assert_same(a: Batch, b: Batch) -> None:
    assert place(a) == place(b)
    assert a.keys() == b.keys()
    for key in a:
        one, other = a[key], b[key]  # type: ignore[literal-required]
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other, key


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("tail", ["pad", "drop", "wrap"])
def test_the_batches_are_those_of_the_plan(loaders: Make, workers: int, tail: str) -> None:
    loader, plan = loaders(rank=1, world=2, workers=workers, tail=tail), loaders.plan(tail=tail)
    truth = loaders.shards.truth["train"]
    for epoch in range(2):
        batches = list(loader)
        assert [place(b) for b in batches] == [(epoch, step) for step in range(plan.steps)]
        assert len(batches) == len(loader) == plan.steps == STEPS - (tail == "drop")
        for batch in batches:
            ids = plan.batch(epoch, batch["step"], 1, 2)
            np.testing.assert_array_equal(batch["id"], ids)
            np.testing.assert_array_equal(batch["image"], truth.images[ids])
            np.testing.assert_array_equal(batch["label"], truth.labels[ids])
            np.testing.assert_array_equal(batch["flags"], truth.flags[ids])
            # The last four samples are rank 0's, and what fills a padded batch does not count.
            short = tail == "pad" and batch["step"] == STEPS - 1
            assert batch["counts"].tolist() == [not short] * 8
            assert batch["weight"].tolist() == [0 if short else 1] * 8
            assert (batch["counted"], batch["left_out"]) == (0 if short else 8, 0)
            assert batch["image"].dtype == torch.uint8
            assert batch["label"].dtype == torch.int64


def test_worker_processes_change_nothing(loaders: Make) -> None:
    here, there = loaders(workers=0), loaders(workers=2)
    for _ in range(2):
        for a, b in itertools.zip_longest(here, there):
            assert_same(a, b)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loaded_state_continues_with_the_very_next_batch_on_any_number_of_ranks(
    loaders: Make, workers: int
) -> None:
    """After every number of batches of two epochs, both ends and the middle among them."""
    reference = [batch for loader in [loaders()] for _ in range(3) for batch in loader]
    source = loaders(rank=1, world=2, workers=workers)
    states = [source.state_dict()]
    for _ in range(2):
        for _batch in source:
            states.append(source.state_dict())
    assert len(states) == 2 * STEPS + 1
    # One loader for each number of ranks takes all states; a fresh one each would start anew.
    for world in (1, 4):
        targets = [loaders(rank, world, workers if rank == 0 else 0) for rank in range(world)]
        for k, state in enumerate(states):
            for target in targets:
                target.load_state_dict(state)
            following = [next(iter(target)) for target in targets]
            assert {place(batch) for batch in following} == {divmod(k, STEPS)}
            ids = torch.cat([batch["id"] for batch in following])
            assert torch.equal(ids, reference[k]["id"])
            images = torch.cat([batch["image"] for batch in following])
            assert torch.equal(images, reference[k]["image"])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("k", [0, 2, STEPS - 1, STEPS, STEPS + 1])
def test_a_fresh_loader_finishes_the_epoch_that_another_began(
    loaders: Make, workers: int, k: int
) -> None:
    reference = [batch for loader in [loaders()] for _ in range(3) for batch in loader]
    source = loaders(workers=workers)
    batches = itertools.chain.from_iterable(itertools.repeat(source))
    for _ in range(k):
        next(batches)
    fresh = loaders(workers=workers)
    fresh.load_state_dict(source.state_dict())
    rest = [*fresh, *fresh]  # what is left of this epoch, and the next one whole
    assert len(rest) == STEPS - k % STEPS + STEPS
    for batch, expected in zip(rest, reference[k:], strict=False):
        assert_same(batch, expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_targets_are_those_of_the_samples_on_any_number_of_ranks_and_after_a_stop(
    shard_set: ShardSet, tmp_path: Path, workers: int
) -> None:
    shards, targets = with_targets(shard_set, tmp_path / "soft")
    loaders = Make(shards, tmp_path / "cache")
    reference = list(loaders())
    for batch in reference:
        np.testing.assert_array_equal(batch["target"], targets["train"][batch["id"]], strict=True)
    halves = [loaders(rank, 2, workers) for rank in range(2)]
    for whole, *parts in zip(reference, *halves, strict=True):
        for key in ("image", "label", "target", "id"):
            joined = torch.cat([part[key] for part in parts])  # type: ignore[literal-required]
            assert torch.equal(joined, whole[key]), key  # type: ignore[literal-required]
    stopped, resumed = loaders(), loaders(workers=workers)
    for _ in itertools.islice(stopped, 2):
        pass
    resumed.load_state_dict(stopped.state_dict())
    for batch, expected in itertools.zip_longest(resumed, reference[2:]):
        assert_same(batch, expected)
    loaders.close()


def test_a_batch_of_a_set_without_targets_has_none(loaders: Make) -> None:
    assert "target" not in next(iter(loaders()))


def test_the_state_counts_what_was_handed_over_not_what_workers_read_ahead(loaders: Make) -> None:
    loader = loaders(workers=2)
    assert loader.state_dict()["consumed"] == 0
    for k, _ in enumerate(loader, 1):
        assert loader.state_dict()["consumed"] == k * GLOBAL_BATCH


def test_the_state_is_plain_and_names_no_rank(loaders: Make) -> None:
    one, other = loaders(rank=0, world=1), loaders(rank=3, world=4)
    next(iter(one))
    next(iter(other))
    state = one.state_dict()
    assert state == other.state_dict()
    assert state == {
        "consumed": GLOBAL_BATCH, "seed": 4, "global_batch": GLOBAL_BATCH, "manifest": "here",
    }  # fmt: skip
    assert {type(value) for value in state.values()} == {int, str}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 5}, "seed 4, this run has 5"),
        ({"global_batch": 8}, "global_batch 16, this run has 8"),
        ({"manifest": "other"}, "manifest here, this run has other"),
    ],
)
def test_the_state_of_another_run_is_refused_and_changes_nothing(
    loaders: Make, changes: dict[str, Any], message: str
) -> None:
    source, target = loaders(), loaders(**changes)
    next(iter(source))
    before = target.state_dict()
    with pytest.raises(UserError, match=message):
        target.load_state_dict(source.state_dict())
    assert target.state_dict() == before


def test_lightning_saves_and_loads_the_state(loaders: Make) -> None:
    assert isinstance(loaders(), _Stateful)


@pytest.mark.parametrize("workers", [0, 2])
def test_setting_another_epoch_goes_to_its_start(loaders: Make, workers: int) -> None:
    loader = loaders(workers=workers)
    next(iter(loader))
    loader.set_epoch(5)
    assert loader.state_dict()["consumed"] == 5 * STEPS * GLOBAL_BATCH
    assert [place(batch) for batch in loader] == [(5, step) for step in range(STEPS)]
    loader.set_epoch(0)
    assert place(next(iter(loader))) == (0, 0)


def test_setting_the_epoch_that_a_loaded_state_is_inside_of_stays_there(loaders: Make) -> None:
    source, target = loaders(), loaders()
    next(itertools.islice(source, 2, 3))
    target.load_state_dict(source.state_dict())
    target.set_epoch(0)
    assert [place(batch) for batch in target] == [(0, step) for step in range(3, STEPS)]
    target.set_epoch(1)  # where it already is
    assert [place(batch) for batch in target] == [(1, step) for step in range(STEPS)]


def test_the_length_of_a_resumed_epoch_is_that_of_the_whole(loaders: Make) -> None:
    loader = loaders()
    next(iter(loader))
    assert len(loader) == len(loader.sampler) == STEPS


def test_no_worker_reads_before_the_place_is_known(loaders: Make) -> None:
    """Lightning makes the iterator first and sets the epoch after."""
    loader = loaders(workers=2)
    batches = iter(loader)
    loader.set_epoch(3)
    assert place(next(batches)) == (3, 0)


def test_an_uneven_world_is_refused_when_the_loader_is_made(loaders: Make) -> None:
    with pytest.raises(UserError, match="batch of 16 cannot be shared by 3 ranks"):
        loaders(rank=0, world=3)
    with pytest.raises(UserError, match="cannot be shared"):
        TrainSampler(loaders.plan(), 0, 5)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more than there are cores
@pytest.mark.parametrize("workers", [0, 1, 3, 8])
def test_every_worker_count_gives_a_ranks_part_of_the_epoch(loaders: Make, workers: int) -> None:
    loader, plan = loaders(rank=1, world=4, workers=workers, tail="wrap"), loaders.plan(tail="wrap")
    ids = [batch["id"].tolist() for batch in loader]
    assert ids == [plan.batch(0, step, 1, 4).tolist() for step in range(plan.steps)]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_shard_is_one_line_from_a_loader_process_too(
    shard_set: ShardSet, copied: Path, tmp_path: Path, workers: int
) -> None:
    (copied / "val-000001.tar").unlink()
    reader = ShardReader(Origin(str(copied)), shard_set.manifest, "val", Cache(tmp_path))
    loader = eval_loader(reader, 8, 0, 1, workers)
    with pytest.raises(UserError, match=r"^\S*val-000001\.tar is missing .*") as caught:
        list(loader)
    loader.close()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_samples_of_a_shard_left_out_do_not_count(
    shard_set: ShardSet, copied: Path, tmp_path: Path, loaders: Make, workers: int
) -> None:
    (copied / "train-000001.tar").write_bytes(b"")
    cache = Cache(tmp_path)
    reader = ShardReader(Origin(str(copied)), shard_set.manifest, "train", cache, "skip")
    loader = TrainLoader(reader, loaders.plan(tail="wrap"), 0, 1, workers)
    loaders.made.append(loader)
    batches = list(loader)
    ids = torch.cat([batch["id"] for batch in batches])
    counts = torch.cat([batch["counts"] for batch in batches])
    assert torch.equal(counts, (ids < 16) | (ids >= 32))
    assert sum(batch["left_out"] for batch in batches) == (~counts).sum()
    assert len(batches) == STEPS  # as many steps as on ranks that had a good copy


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_an_evaluation_counts_each_sample_once_over_all_ranks(
    shard_set: ShardSet, cache: Path, world: int, workers: int
) -> None:
    truth = shard_set.truth["val"]
    counted: list[int] = []
    lengths = set()
    for rank in range(world):
        loader = eval_loader(shard_set.reader("val", cache), 5, rank, world, workers)
        batches = list(loader)
        lengths |= {len(batches), len(loader)}
        for batch in batches:
            assert batch["image"].shape == (5, 1, 48, 48)
            np.testing.assert_array_equal(batch["image"], truth.images[batch["id"]])
            np.testing.assert_array_equal(batch["label"], truth.labels[batch["id"]])
            np.testing.assert_array_equal(batch["flags"], truth.flags[batch["id"]])
            counted += batch["id"][batch["counts"]].tolist()
    assert sorted(counted) == list(range(SAMPLES["val"]))
    assert lengths == {-(-SAMPLES["val"] // (5 * world))}


def run_data(shards: ShardSet, cache: Path, world: World, **trainer: Any) -> FERData:
    config = Config.model_validate(
        {
            "seed": 4,
            "data": {"shards": str(shards.folder), "cache": str(cache), "window": 40},
            "trainer": {"global_batch": GLOBAL_BATCH, "eval_batch": 7, **trainer},
        }
    )
    return FERData(config, world, Preprocess(48, (0.5,) * 3, (0.5,) * 3), shards.manifest)


def test_the_data_module_makes_this_ranks_loaders(
    shard_set: ShardSet, cache: Path, loaders: Make
) -> None:
    data = run_data(shard_set, cache, World("torchrun", 1, 2, 1, 2))
    for got, expected in itertools.zip_longest(data.train_dataloader(), loaders(rank=1, world=2)):
        assert_same(got, expected)
    assert data.train_dataloader().state_dict()["manifest"] == shard_set.manifest.fingerprint()
    for loader, samples in [
        (data.val_dataloader(), SAMPLES["val"]),
        (data.eval_dataloader("test"), SAMPLES["test"]),
    ]:
        ids = torch.cat([batch["id"][batch["counts"]] for batch in loader])
        # Rank 1 has the second seven of every fourteen.
        assert ids.tolist() == [i for i in range(samples) if i // 7 % 2 == 1]


def test_an_uneven_world_cannot_train_but_can_evaluate(shard_set: ShardSet, cache: Path) -> None:
    data = run_data(shard_set, cache, World("torchrun", 2, 3, 2, 3))
    with pytest.raises(UserError, match="cannot be shared by 3 ranks"):
        data.train_dataloader()
    assert [batch["counts"].sum() for batch in data.val_dataloader()] == [7, 2]  # of 37


START_METHODS = ("fork", "forkserver", "spawn")


def processes(loader: TrainLoader) -> list[int]:
    return [process.pid for process in loader._iterator._workers]


def exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()  # of a zombie too


@pytest.mark.slow
@pytest.mark.parametrize("start_method", START_METHODS)
def test_loader_processes_give_the_same_batches_take_no_notice_of_signals_and_are_ended_by_close(
    loaders: Make, start_method: str
) -> None:
    loader, truth = loaders(workers=2, start_method=start_method), loaders()
    both = itertools.zip_longest(itertools.chain(loader, loader), itertools.chain(truth, truth))
    for k, (a, b) in enumerate(both):
        assert_same(a, b)
        for pid in processes(loader) if k < STEPS else ():
            os.kill(pid, STOPPING[k % len(STOPPING)])
    pids = processes(loader)
    assert len(pids) == 2
    assert all(map(exists, pids))
    loader.close()
    assert not any(map(exists, pids))
    loader.close()  # nothing is left to close


@pytest.mark.slow
def test_close_ends_a_loader_process_that_hangs(
    loaders: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_utils, "MP_STATUS_CHECK_INTERVAL", 0.5)  # seconds that PyTorch asks it
    loader = loaders(workers=1)
    next(iter(loader))
    [pid] = processes(loader)
    os.kill(pid, signal.SIGSTOP)
    begin = time.monotonic()
    loader.close()
    assert not exists(pid)
    assert time.monotonic() - begin < 30


def test_there_is_nothing_to_close_before_the_first_batch_and_without_processes(
    loaders: Make,
) -> None:
    for workers in (0, 2):
        loaders(workers=workers).close()
    loader = loaders()
    next(iter(loader))
    loader.close()
    assert place(next(iter(loader))) == (0, 1)


_UNDER_FIRE = """
import os, pathlib, sys, threading, time
from pattlite_dist.data.cache import Cache
from pattlite_dist.data.fetch import Origin, fetch_manifest
from pattlite_dist.data.loader import TrainLoader
from pattlite_dist.data.plan import TrainPlan
from pattlite_dist.data.reader import ShardReader
from pattlite_dist.runtime.signals import STOPPING
folder, cache, start_method = sys.argv[1:]
me, fired = os.getpid(), set()
def parent(entry):
    return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
def descendants():
    parents = {}
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = parent(entry)
        except OSError:
            pass
    found, new = set(), {me}
    while new:
        new = {pid for pid, its in parents.items() if its in new} - found
        found |= new
    return found
def fire():
    while firing:
        for pid in descendants():
            for signum in STOPPING:
                try:
                    os.kill(pid, signum)
                except ProcessLookupError:
                    pass
            fired.add(pid)
        time.sleep(0.02)
origin = Origin(folder)
manifest = fetch_manifest(origin)
reader = ShardReader(origin, manifest, "train", Cache(pathlib.Path(cache)))
sizes = [shard.samples for shard in manifest.shards["train"]]
loader = TrainLoader(reader, TrainPlan(sizes, 4, 40, 16), 0, 1, 2, start_method)
firing = True
thread = threading.Thread(target=fire)
thread.start()
try:
    print(sum(len(batch["id"]) for batch in loader))
finally:
    firing = False
    thread.join()
workers = {process.pid for process in loader._iterator._workers}
print(workers <= fired, workers <= descendants())
loader.close()
print(workers & descendants())
"""


@pytest.mark.slow
@pytest.mark.parametrize("start_method", START_METHODS)
def test_loader_processes_and_their_helpers_live_through_signals_while_they_start(
    shard_set: ShardSet, cache: Path, start_method: str
) -> None:
    """SLURM signals every process of a step, whatever it is doing."""
    done = subprocess.run(
        [sys.executable, "-c", _UNDER_FIRE, str(shard_set.folder), str(cache), start_method],
        env=environment(PYTHONWARNINGS="error"),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(STEPS * GLOBAL_BATCH), "True True", "set()"]
    assert done.stderr == ""


@pytest.mark.slow
def test_a_process_ends_though_nobody_has_closed_its_loader(
    zygote: Zygote, face_shards: Path
) -> None:
    """Its loader processes take no notice of the SIGTERM by which multiprocessing ends them."""
    start = zygote.start([str(face_shards)], module="tests.data.left_open")
    assert (start.statuses, start.stderr) == ([0], "")
