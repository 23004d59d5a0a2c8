import os
import pickle
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pattlite_dist.data.ahead import Ahead, start_of
from pattlite_dist.data.cache import Cache
from pattlite_dist.data.fetch import Origin
from pattlite_dist.data.loader import TrainLoader
from pattlite_dist.data.plan import EvalPlan, TrainPlan
from pattlite_dist.data.reader import ShardReader
from pattlite_dist.data.room import Locks
from pattlite_dist.errors import UserError
from tests.data.conftest import SAMPLES, ShardSet, assert_is

WINDOW, GLOBAL_BATCH = 40, 16  # two shards of 16 samples in a window


def plan_of(shards: ShardSet) -> TrainPlan:
    return TrainPlan(shards.sizes("train"), 4, WINDOW, GLOBAL_BATCH)


def reader_of(shards: ShardSet, cache: Path, limit: int | None = None) -> ShardReader:
    return ShardReader(
        Origin(str(shards.folder)), shards.manifest, "train", Cache(cache, limit), "stop"
    )


def done(ahead: Ahead) -> None:
    """Wait until it has decoded all that it wants to."""
    assert ahead._thread is not None
    ahead._thread.join()


def numbers(names: list[str]) -> set[int]:
    return {int(name.removeprefix("train-").removesuffix(".tar")) for name in names}


def needed(plan: TrainPlan, reader: ShardReader, epoch: int, window: int) -> set[int]:
    """The shards of a window, by the batches of the plan alone."""
    steps = [step for step in range(plan.steps) if plan.window_at(epoch, step) == window]
    order = np.concatenate([plan.batch(epoch, step) for step in range(plan.steps)])[: plan.samples]
    assert steps
    members = set(plan.members(epoch, window).tolist())
    places = [place for place, one in enumerate(order.tolist()) if one in members]
    assert places == list(range(places[0], places[0] + len(members)))
    assert places[0] <= steps[0] * GLOBAL_BATCH <= places[-1]
    return set(reader.shards_of(order[places]))


def test_a_window_and_the_one_after_it_are_decoded_and_nothing_else(
    shard_set: ShardSet, tmp_path: Path, decoded: list[str]
) -> None:
    plan, reader = plan_of(shard_set), reader_of(shard_set, tmp_path)
    ahead = Ahead(reader, plan, epochs=2)
    last = 0
    for epoch in range(2):
        for step in range(plan.steps):
            before, number = len(decoded), plan.window_at(epoch, step)
            ahead.at(epoch, step)
            done(ahead)
            following = plan.following(epoch, number)
            wanted = needed(plan, reader, epoch, number)
            if following[0] < 2:
                wanted |= needed(plan, reader, *following)
            assert all(reader.cache.keep(*entry(reader, one)) for one in wanted)
            assert numbers(decoded[before:]) <= wanted
            last = max(last, number)
    assert last >= 2  # 100 samples in windows of two or three shards
    assert len(decoded) == len(set(decoded)) == len(reader.shards)


def entry(reader: ShardReader, number: int) -> tuple[str, int]:
    shard = reader.shards[number]
    return reader.key(shard), shard.samples * reader._size


def test_batches_are_the_same_and_each_shard_is_decoded_once(
    shard_set: ShardSet, tmp_path: Path, decoded: list[str]
) -> None:
    plan, readers = plan_of(shard_set), [reader_of(shard_set, tmp_path) for _ in range(3)]
    loaders = [TrainLoader(one, plan, rank, 2, epochs=1) for rank, one in enumerate(readers[:2])]
    seen = []
    for batches in zip(*loaders, strict=True):
        ids = np.concatenate([batch["id"].numpy() for batch in batches])
        images = np.concatenate([batch["image"].numpy() for batch in batches])
        np.testing.assert_array_equal(images, shard_set.truth["train"].images[ids])
        np.testing.assert_array_equal(ids, plan.batch(0, batches[0]["step"]))
        seen.append(ids)
    for loader in loaders:
        loader.close()
    assert set(np.concatenate(seen).tolist()) == set(range(SAMPLES["train"]))
    assert sorted(decoded) == sorted({shard.name for shard in readers[0].shards})
    for thread in threading.enumerate():
        if thread.name == "pattlite-ahead":
            thread.join()  # none stays


@pytest.mark.parametrize(("shards", "wanted"), [(1, 0), (2, 2), (3, 2), (4, 4)])
def test_nothing_is_decoded_for_which_the_cache_has_no_room(
    shards: int, wanted: int, shard_set: ShardSet, tmp_path: Path, decoded: list[str]
) -> None:
    plan = plan_of(shard_set)
    size = entry(reader_of(shard_set, tmp_path), 0)[1] + 100  # and its trailer
    ahead = Ahead(reader_of(shard_set, tmp_path, shards * size), plan)
    begin = next(
        epoch for epoch in range(99)  # of which the first two windows have whole shards
        if len(plan.members(epoch, 0)) == len(plan.members(epoch, 1)) == 32
    )  # fmt: skip
    ahead.at(begin, 0)
    done(ahead)
    assert len(decoded) == wanted


def test_a_bad_shard_found_ahead_is_told_when_its_turn_comes(
    copied: Path, shard_set: ShardSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (copied / "train-000003.tar").write_bytes(b"cut off")
    plan = plan_of(shard_set)
    origin, cache = Origin(str(copied)), Cache(tmp_path / "cache")
    reader = ShardReader(origin, shard_set.manifest, "train", cache, "stop")
    for step in range(plan.steps):
        ahead = Ahead(reader, plan)
        ahead.at(0, step)
        done(ahead)
    assert caplog.text == ""
    bad = [s for s in range(plan.steps) if 3 in reader.shards_of(plan.batch(0, s))]
    for step in range(bad[0]):
        reader.gather(plan.batch(0, step))
    with pytest.raises(UserError, match="train-000003"):
        reader.gather(plan.batch(0, bad[0]))
    skipping = ShardReader(origin, shard_set.manifest, "train", cache, "skip")
    assert not skipping.gather(plan.batch(0, bad[0])).good.all()
    assert "shard skipped" in caplog.text


def test_what_another_process_decodes_is_passed_over(
    shard_set: ShardSet, tmp_path: Path, decoded: list[str]
) -> None:
    plan, reader = plan_of(shard_set), reader_of(shard_set, tmp_path)
    first, *others = reader.shards_of(plan.members(0, 0))
    with Locks(tmp_path).hold(reader.shards[first].sha256[:2]):
        ahead = Ahead(reader, plan)
        ahead.at(0, 0)
        done(ahead)
    assert first not in numbers(decoded) >= set(others)


def test_it_stops_after_the_shard_at_hand_and_begins_again_where_asked(
    shard_set: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go, made = threading.Event(), threading.Event(), []

    def prepare(self: ShardReader, number: int) -> None:
        begun.set()
        go.wait()
        made.append(number)

    monkeypatch.setattr(ShardReader, "prepare", prepare)
    ahead = Ahead(reader_of(shard_set, tmp_path), plan_of(shard_set))
    ahead.at(0, 0)
    begun.wait()
    thread = ahead._thread
    assert thread is not None and thread.daemon  # so that the process can end all the same
    ahead._over.set()
    go.set()
    ahead.stop()
    thread.join()
    assert len(made) == 1
    ahead.at(0, 0)
    done(ahead)
    assert len(made) > 2
    ahead.stop()
    ahead.stop()


def test_a_loader_process_gets_one_that_has_not_begun(shard_set: ShardSet, tmp_path: Path) -> None:
    ahead = Ahead(reader_of(shard_set, tmp_path), plan_of(shard_set), 3)
    ahead.at(0, 0)
    sent = pickle.loads(pickle.dumps(ahead))
    assert sent._thread is None and sent.epochs == 3
    sent.at(0, 0)
    done(sent)
    done(ahead)


def test_an_evaluation_is_decoded_ahead_too(
    shard_set: ShardSet, tmp_path: Path, decoded: list[str]
) -> None:
    reader = reader_of(shard_set, tmp_path)
    ahead = Ahead(reader, EvalPlan(len(reader), 8, 2))
    ahead.at(0, 0)
    done(ahead)
    assert len(decoded) == len(reader.shards)


def test_a_cache_that_cannot_be_used_is_told_by_the_reader_alone(
    shard_set: ShardSet, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    reader = reader_of(shard_set, tmp_path / "file")
    ahead = Ahead(reader, plan_of(shard_set))
    ahead.at(0, 0)
    done(ahead)
    with pytest.raises(UserError, match="cannot use the cache folder"):
        reader.gather(np.arange(3))


def test_an_entry_that_is_kept_is_the_last_to_go(shard_set: ShardSet, tmp_path: Path) -> None:
    reader = reader_of(shard_set, tmp_path)
    assert_is(reader.gather(np.arange(16)), shard_set.truth["train"], np.arange(16))
    key, size = entry(reader, 0)
    (path,) = tmp_path.glob("*.block")
    os.utime(path, (0, 0))
    assert reader.cache.keep(key, size) and path.stat().st_mtime > 1e9
    assert not reader.cache.keep(key, size + 1)
    shutil.rmtree(tmp_path)
    assert not reader.cache.keep(key, size)
    assert reader.cache.fit({key: size})


@given(st.integers(1, 64))
def test_the_ranks_of_a_node_begin_apart(ranks: int) -> None:
    starts = np.sort([start_of(rank) for rank in range(ranks)])
    gaps = np.diff([*starts, starts[0] + 1])
    assert gaps.min() > 0.38 / ranks and all(0 <= start < 1 for start in starts)


def test_a_reader_begins_where_it_is_told_and_comes_around(
    shard_set: ShardSet, tmp_path: Path, decoded: list[str]
) -> None:
    reader = reader_of(shard_set, tmp_path)
    reader.start = start_of(1)
    found = reader.gather(np.arange(100))
    assert_is(found, shard_set.truth["train"], np.arange(100))
    assert [int(name[6:12]) for name in decoded] == [4, 5, 6, 0, 1, 2, 3]
