from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pattlite_dist.config import parse_config
from pattlite_dist.data.balance import Balance, class_places
from pattlite_dist.data.plan import TrainPlan
from pattlite_dist.errors import UserError
from tests.data.conftest import ShardSet

GOLDEN_EPOCH = [0, 1, 2, 2, 3, 4, 5, 6, 6, 8, 9, 11]

COUNTS = st.lists(st.integers(0, 60), min_size=1, max_size=9).filter(any)
SHARES = st.floats(0, 1)


def labels_of(counts: list[int], seed: int = 0) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Labels with these counts, shuffled."""
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int64)
    return np.asarray(np.random.default_rng(seed).permutation(labels), np.int64)


@given(COUNTS, SHARES)
def test_classes_share_the_places_of_an_epoch_to_within_one(
    counts: list[int], balance: float
) -> None:
    places = class_places(np.array(counts), balance)
    assert places.sum() == sum(counts)
    weights = [n ** (1 - balance) if n else 0 for n in counts]
    for place, weight in zip(places.tolist(), weights, strict=True):
        assert abs(place - sum(counts) * weight / sum(weights)) < 1 + 1e-6
    # A class with more samples has no fewer places, except that earlier ones round up first.
    assert all(
        places[i] >= places[j] - 1
        for i in range(len(counts))
        for j in range(len(counts))
        if counts[i] >= counts[j] > 0
    )


def test_the_ends_of_the_scale_are_each_sample_once_and_each_class_equally_often() -> None:
    counts = np.array([3995, 436, 4097, 7215, 4830, 3171, 4965])  # FER2013's
    assert class_places(counts, 0).tolist() == counts.tolist()
    assert sorted(class_places(counts, 1).tolist()) == [4101] * 5 + [4102] * 2
    assert class_places(np.array([5, 0, 1]), 1).tolist() == [3, 0, 3]


@given(COUNTS, SHARES, st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_no_sample_of_a_class_is_ever_seen_twice_more_often_than_another(
    counts: list[int], balance: float, seed: int, epochs: int
) -> None:
    labels = labels_of(counts)
    order = Balance(labels, len(counts), balance, seed)
    total = np.zeros(len(labels), np.int64)
    for epoch in range(epochs):
        ids = order.epoch(epoch)
        assert (np.diff(ids) >= 0).all()
        once = np.bincount(ids, minlength=len(labels))
        total += once
        for label, places in enumerate(order.places.tolist()):
            assert once[labels == label].sum() == places
            for seen in (once[labels == label], total[labels == label]):
                assert not len(seen) or seen.max() - seen.min() <= 1


@given(COUNTS, SHARES, st.data())
def test_a_balanced_plan_has_the_same_ids_on_any_number_of_ranks(
    counts: list[int], balance: float, data: st.DataObject
) -> None:
    labels = labels_of(counts)
    samples, world = len(labels), data.draw(st.integers(1, 8))
    cuts = data.draw(st.sets(st.integers(1, samples), max_size=6)) - {samples}
    sizes = np.diff([0, *sorted(cuts), samples])
    order = Balance(labels, len(counts), balance, 7)
    batch, window = world * data.draw(st.integers(1, 5)), data.draw(st.integers(1, samples))
    plan = TrainPlan(sizes, 7, window, batch, "wrap", order.epoch)
    epoch = data.draw(st.integers(0, 50))
    ids = []
    for step in range(plan.steps):
        whole = plan.batch(epoch, step)
        parts = [plan.batch(epoch, step, rank, world) for rank in range(world)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
        ids += whole.tolist()
    assert sorted(ids[:samples]) == order.epoch(epoch).tolist()
    again = TrainPlan(sizes, 7, window, batch, "wrap", order.epoch)  # from that step on, resumed
    last = plan.steps - 1
    np.testing.assert_array_equal(again.batch(epoch, last), ids[last * batch :])


def test_a_window_of_a_balanced_order_holds_whole_shards() -> None:
    labels = labels_of([40, 6, 2])
    order = Balance(labels, 3, 1, 3)
    plan = TrainPlan([8] * 6, 3, 1, 4, "pad", order.epoch)
    ids = np.concatenate([plan.batch(2, step) for step in range(plan.steps)])
    shards = ids // 8
    assert len(set(shards[:-1][np.diff(shards) != 0].tolist())) == np.count_nonzero(np.diff(shards))


def test_nothing_to_balance_is_the_order_of_every_other_run() -> None:
    labels = labels_of([9, 4])
    plan = TrainPlan([6, 7], 5, 100, 4, "pad")
    same = TrainPlan([6, 7], 5, 100, 4, "pad", Balance(labels, 2, 0, 5).epoch)
    for step in range(plan.steps):
        np.testing.assert_array_equal(plan.batch(3, step), same.batch(3, step))


def test_golden_epoch() -> None:
    labels = np.array([0, 0, 1, 0, 2, 0, 2, 0, 1, 0, 0, 0])
    order = Balance(labels, 3, 0.5, 11)
    assert order.places.tolist() == [6, 3, 3]
    assert order.epoch(1).tolist() == GOLDEN_EPOCH


def test_the_labels_come_from_the_shards(
    shard_set: ShardSet, colour_set: ShardSet, cache: Path
) -> None:
    for shards in (shard_set, colour_set):
        labels = shards.reader("train", cache).labels()
        np.testing.assert_array_equal(labels, shards.truth["train"].labels)


def test_shards_without_labels_cannot_be_balanced() -> None:
    with pytest.raises(UserError, match=r"set data\.bad_shards=stop"):
        parse_config({"data": {"balance": 0.5, "bad_shards": "skip"}}, "here")
