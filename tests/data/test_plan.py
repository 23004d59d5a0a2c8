import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pattlite_dist.data.plan import (
    AUGMENT,
    DROPOUT,
    SAMPLES,
    SHARDS,
    EpochOrder,
    EvalPlan,
    TrainPlan,
    rank_slice,
    raw_stream,
)
from pattlite_dist.data.settings import Tail
from pattlite_dist.errors import UserError
from tests.conftest import ROOT

GOLDEN_WORDS_ZERO = [213000021201967259, 4455796210202625458, 2055444239878205049]
GOLDEN_WORDS = [2781595780239199219, 3008535719900722690, 10684972574547891185]
GOLDEN_ORDER = [8, 11, 9, 10, 7, 0, 2, 3, 6, 4, 5, 1, 12, 13]

WORLDS = st.integers(1, 8)
SIZES = st.lists(st.integers(1, 50), min_size=1, max_size=30).map(tuple)
SEEDS = st.integers(0, 2**32 - 1)
EPOCHS = st.integers(0, 1000)


@st.composite
def plans(draw: st.DrawFn, tail: Tail | None = None) -> tuple[TrainPlan, int]:
    """A plan, and a number of ranks that can share its batches."""
    sizes, world = draw(SIZES), draw(WORLDS)
    kind: Tail = tail or draw(st.sampled_from(["pad", "drop", "wrap"]))
    batch = world * draw(st.integers(1, 40))
    assume(kind != "drop" or sum(sizes) >= batch)
    window = draw(st.integers(1, sum(sizes) + 10))
    return TrainPlan(sizes, draw(SEEDS), window, batch, kind), world


def epoch_ids(plan: TrainPlan, epoch: int, world: int) -> list[int]:
    """All ids of an epoch, gathered from the ranks' slices."""
    return [
        int(i)
        for step in range(plan.steps)
        for rank in range(world)
        for i in plan.batch(epoch, step, rank, world)
    ]


@given(plans("drop"), EPOCHS)
def test_drop_visits_every_sample_once_but_for_the_tail(
    case: tuple[TrainPlan, int], epoch: int
) -> None:
    plan, world = case
    ids = epoch_ids(plan, epoch, world)
    assert len(ids) == len(set(ids)) == plan.samples // plan.global_batch * plan.global_batch
    assert set(ids) <= set(range(plan.samples))


@given(plans("wrap"), EPOCHS)
def test_wrap_visits_every_sample_and_repeats_only_in_the_last_batch(
    case: tuple[TrainPlan, int], epoch: int
) -> None:
    plan, world = case
    ids = epoch_ids(plan, epoch, world)
    once = ids[: plan.samples]
    assert sorted(once) == list(range(plan.samples))
    repeats = ids[plan.samples :]
    assert len(repeats) == plan.steps * plan.global_batch - plan.samples < plan.global_batch
    # The last batch is filled from the beginning of the same epoch, repeatedly if necessary.
    assert repeats == list(itertools.islice(itertools.cycle(once), len(repeats)))


@given(plans("pad"), EPOCHS, st.data())
def test_pad_counts_every_sample_exactly_once_on_any_ranks_and_after_any_stop(
    case: tuple[TrainPlan, int], epoch: int, data: st.DataObject
) -> None:
    plan, before = case
    after = data.draw(st.sampled_from([w for w in range(1, 9) if plan.global_batch % w == 0]))
    stop = data.draw(st.integers(0, plan.steps))
    counted: list[int] = []
    for world, steps in ((before, range(stop)), (after, range(stop, plan.steps))):
        for step in steps:
            ids = [int(i) for rank in range(world) for i in plan.batch(epoch, step, rank, world)]
            assert len(ids) == plan.global_batch
            counted += ids[: plan.counting(step)]
    assert sorted(counted) == list(range(plan.samples))
    wrapped = TrainPlan(plan.sizes, plan.seed, plan.window, plan.global_batch, "wrap")
    assert epoch_ids(plan, epoch, before) == epoch_ids(wrapped, epoch, before)


@given(plans(), EPOCHS, st.data())
def test_the_ranks_slices_are_the_global_batch_for_every_world(
    case: tuple[TrainPlan, int], epoch: int, data: st.DataObject
) -> None:
    plan, _ = case
    step = data.draw(st.integers(0, plan.steps - 1))
    whole = plan.batch(epoch, step)
    assert len(whole) == plan.global_batch
    for world in range(1, 9):
        if plan.global_batch % world == 0:
            parts = [plan.batch(epoch, step, rank, world) for rank in range(world)]
            assert {len(part) for part in parts} == {plan.global_batch // world}
            np.testing.assert_array_equal(np.concatenate(parts), whole)


@given(SIZES, SEEDS, EPOCHS, st.integers(1, 1600))
def test_the_same_seed_and_epoch_give_the_same_order(
    sizes: tuple[int, ...], seed: int, epoch: int, window: int
) -> None:
    array = np.array(sizes)
    first, again = (EpochOrder(array, seed, epoch, window).take(0, sum(sizes)) for _ in range(2))
    np.testing.assert_array_equal(first, again)


@given(SEEDS, EPOCHS, st.integers(1, 700))
def test_another_epoch_or_seed_gives_another_order(seed: int, epoch: int, window: int) -> None:
    # 30 shards of 20: two orders cannot plausibly agree by chance (30! x 20!^30).
    sizes = np.full(30, 20)
    orders = [
        tuple(EpochOrder(sizes, s, e, window).take(0, 600))
        for s, e in [(seed, epoch), (seed, epoch + 1), (seed + 1, epoch)]
    ]
    assert len(set(orders)) == 3


@given(SIZES, SEEDS, EPOCHS, st.integers(1, 1600))
def test_samples_mix_only_within_a_window_of_whole_shards(
    sizes: tuple[int, ...], seed: int, epoch: int, window: int
) -> None:
    order = EpochOrder(np.array(sizes), seed, epoch, window).take(0, sum(sizes))
    shard_of = np.repeat(np.arange(len(sizes)), sizes)[order]
    # Recover the windows from the order alone: cut where every shard seen so far is complete.
    place = 0
    while place < len(order):
        seen: dict[int, int] = {}
        end = place
        while not seen or any(count < sizes[shard] for shard, count in seen.items()):
            seen[int(shard_of[end])] = seen.get(int(shard_of[end]), 0) + 1
            end += 1
        assert end - place <= window or len(seen) == 1
        place = end


@given(SIZES, SEEDS, EPOCHS)
def test_a_window_of_one_keeps_shards_in_one_piece(
    sizes: tuple[int, ...], seed: int, epoch: int
) -> None:
    order = EpochOrder(np.array(sizes), seed, epoch, window=1).take(0, sum(sizes))
    shard_of = np.repeat(np.arange(len(sizes)), sizes)[order]
    assert len(list(itertools.groupby(shard_of))) == len(sizes)


def test_a_wide_window_mixes_shards_and_a_narrow_one_shuffles_inside_them() -> None:
    sizes = np.full(10, 50)
    wide = EpochOrder(sizes, 0, 0, 500).take(0, 500) // 50
    assert len(list(itertools.groupby(wide))) > 300
    narrow = EpochOrder(sizes, 0, 0, 1).take(0, 50)
    assert sorted(narrow) == list(range(min(narrow), min(narrow) + 50)) != list(narrow)


@pytest.mark.parametrize("window", [30, 39])
def test_windows_hold_as_many_whole_shards_as_fit(window: int) -> None:
    order = EpochOrder(np.full(9, 10), 3, 0, window).take(0, 90) // 10
    assert [len(set(order[i : i + 30])) for i in (0, 30, 60)] == [3, 3, 3]


@given(SIZES, SEEDS, st.integers(1, 1600), st.data())
def test_take_agrees_with_itself_for_any_cut(
    sizes: tuple[int, ...], seed: int, window: int, data: st.DataObject
) -> None:
    samples = sum(sizes)
    cuts = sorted(data.draw(st.lists(st.integers(0, samples), max_size=8)))
    order = EpochOrder(np.array(sizes), seed, 0, window)
    whole = EpochOrder(np.array(sizes), seed, 0, window).take(0, samples)
    spans = list(itertools.pairwise([0, *cuts, samples]))
    # Backwards, so that the one window in memory is never the next one.
    parts = [order.take(*span) for span in reversed(spans)][::-1]
    assert [len(part) for part in parts] == [b - a for a, b in spans]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@given(plans(), EPOCHS, st.data())
def test_position_and_consumed_are_inverse(
    case: tuple[TrainPlan, int], epoch: int, data: st.DataObject
) -> None:
    plan, _ = case
    step = data.draw(st.integers(0, plan.steps - 1))
    consumed = plan.consumed(epoch, step)
    assert plan.position(consumed) == (epoch, step)
    following = (epoch, step + 1) if step + 1 < plan.steps else (epoch + 1, 0)
    assert plan.position(consumed + plan.global_batch) == following


def test_a_run_starts_at_its_first_batch() -> None:
    plan = TrainPlan((10, 10), 0, 5, 4)
    assert plan.consumed(0, 0) == 0
    assert plan.position(0) == (0, 0)


def test_too_few_samples_for_a_batch_are_an_error_if_the_tail_is_dropped() -> None:
    with pytest.raises(UserError, match=r"^19 training samples .* 20; lower trainer\.global_batch"):
        TrainPlan((9, 10), 0, 5, 20, "drop")
    assert TrainPlan((9, 10), 0, 5, 20).counting(0) == 19
    plan = TrainPlan((9, 10), 0, 5, 60, "wrap")
    assert plan.steps == 1
    assert sorted(np.bincount(plan.batch(0, 0)))[::18] == [3, 4]  # 60 = 16 * 3 + 3 * 4


@given(st.integers(1, 500), st.integers(2, 16))
def test_an_uneven_share_is_an_error(batch: int, world: int) -> None:
    assume(batch % world)
    for attempt in (
        lambda: rank_slice(batch, 0, world),
        lambda: TrainPlan((500,), 0, 500, batch).batch(0, 0, 0, world),
    ):
        with pytest.raises(UserError, match=f"batch of {batch} cannot be shared by {world} ranks"):
            attempt()


@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 17))
def test_an_evaluation_counts_each_sample_once_in_equal_steps(
    samples: int, world: int, batch_size: int
) -> None:
    plan = EvalPlan(samples, batch_size, world)
    counted: list[int] = []
    for rank, step in itertools.product(range(world), range(plan.steps)):
        ids, counts = plan.batch(step, rank)
        assert len(ids) == len(counts) == batch_size
        assert not ids[~counts].any()  # padding is sample 0, which every set has
        counted += ids[counts].tolist()
    assert sorted(counted) == list(range(samples))
    # No rank takes a step in which no rank has a sample.
    assert plan.steps == -(-samples // (batch_size * world))


def test_nothing_to_evaluate_takes_no_step() -> None:
    assert EvalPlan(0, 8, 2).steps == 0


def test_streams_of_different_purpose_epoch_seed_or_number_share_no_word() -> None:
    keys = [
        *((0, 0, purpose, 0) for purpose in (SHARDS, SAMPLES, AUGMENT, DROPOUT)),
        (0, 0, SAMPLES, 1),
        (0, 1, SAMPLES, 0),
        (1, 0, SAMPLES, 0),
    ]
    words = np.concatenate([raw_stream(*key, n=1000) for key in keys])
    assert len(np.unique(words)) == len(words)


def test_a_longer_draw_begins_with_the_shorter_one() -> None:
    short, long = (raw_stream(5, 2, AUGMENT, 9, n) for n in (7, 50))
    np.testing.assert_array_equal(short, long[:7])


def test_golden_numbers() -> None:
    """A later release must continue a run of this one, so these must never change."""
    assert raw_stream(0, 0, SHARDS, 0, 3).tolist() == GOLDEN_WORDS_ZERO
    assert raw_stream(42, 7, AUGMENT, 1234, 3).tolist() == GOLDEN_WORDS
    order = EpochOrder(np.array([4, 3, 5, 2]), seed=42, epoch=7, window=8).take(0, 14)
    assert order.tolist() == GOLDEN_ORDER
    plan = TrainPlan((4, 3, 5, 2), seed=42, window=8, global_batch=4, tail="wrap")
    assert plan.batch(7, 3, rank=1, world=2).tolist() == GOLDEN_ORDER[:2]
    assert plan.batch(7, 1, rank=1, world=2).tolist() == GOLDEN_ORDER[6:8]


# Measured in a separate process, because the memory is that of the whole interpreter.
_BILLION = """
import sys, time
import numpy as np
from pattlite_dist.data.plan import TrainPlan
epoch, step = int(sys.argv[1]), int(sys.argv[2])
sizes = np.full(1_000_000, 1_000)
begin = time.perf_counter()
plan = TrainPlan(sizes, seed=1, window=131072, global_batch=4096 * 32)
assert plan.position(plan.consumed(epoch, step)) == (epoch, step)
ids = plan.batch(epoch, step, rank=4095, world=4096)
seconds = time.perf_counter() - begin
assert len(np.unique(ids)) == 32 and ids.min() >= 0 and ids.max() < 10**9
# Not `ru_maxrss`, which a process inherits from its parent.
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(seconds, int(peak.split()[1]) / 1024)
"""


@pytest.mark.parametrize(("epoch", "step"), [(0, 0), (3, 4000)])
def test_a_billion_samples_are_planned_at_once_in_little_memory(epoch: int, step: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _BILLION, str(epoch), str(step)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    seconds, mebibytes = map(float, done.stdout.split())
    assert mebibytes < 300
    # A bound on the work, not a timing: the plan takes 0.2 s, but walking over a billion samples,
    # or an order per rank, takes minutes.
    assert seconds < 20


def test_the_orders_of_two_plans_do_not_mix() -> None:
    one, other = (TrainPlan(sizes, 0, 100, 4) for sizes in ((10, 10), (20,)))
    first = one.batch(0, 0)
    other.batch(0, 0)
    assert one.batch(0, 0).tolist() == first.tolist()
    assert TrainPlan([10, 10], 0, 100, 4).batch(0, 0).tolist() == first.tolist()


@given(plans(), EPOCHS, st.data())
def test_the_global_batches_are_the_same_for_every_world_that_divides_them(
    case: tuple[TrainPlan, int], epoch: int, data: st.DataObject
) -> None:
    """Interrupted after any step and continued by any number of ranks."""
    plan, _ = case
    worlds = [world for world in range(1, 9) if plan.global_batch % world == 0]
    world = data.draw(st.sampled_from(worlds))
    for step in range(plan.steps):
        if data.draw(st.booleans()):  # stopped here: a fresh plan, maybe other ranks
            world = data.draw(st.sampled_from(worlds))
            plan = TrainPlan(plan.sizes, plan.seed, plan.window, plan.global_batch, plan.tail)
            assert plan.position(plan.consumed(epoch, step)) == (epoch, step)
        ranks = [plan.batch(epoch, step, rank, world) for rank in range(world)]
        assert {len(ids) for ids in ranks} == {plan.global_batch // world}
        assert np.concatenate(ranks).tolist() == plan.batch(epoch, step).tolist()


def test_ids_of_a_huge_set_do_not_overflow() -> None:
    """More samples than 32 bits can count; the last place of the last shard is reached."""
    sizes = np.full(50_000, 100_000)
    order = EpochOrder(sizes, 0, 0, window=1)
    last = order.take(5_000_000_000 - 100_000, 5_000_000_000)
    assert len(np.unique(last)) == 100_000
    assert last.max() - last.min() == 99_999
    assert last.min() % 100_000 == 0
    firsts = [int(order.take(i * 100_000, i * 100_000 + 1)[0]) for i in range(20)]
    assert 2**32 < max(firsts) < 5_000_000_000
