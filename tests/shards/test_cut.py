import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pattlite_dist.shards.cut import bundles, cut

LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=80)
FRACTIONS = st.sampled_from([[0.8, 0.1, 0.1], [0.9, 0.1], [0.5, 0.25, 0.25], [0.34, 0.33, 0.33]])


@st.composite
def tied(draw: st.DrawFn) -> tuple[np.ndarray, list[np.ndarray]]:
    labels = draw(LABELS)
    numbers = st.lists(st.integers(-1, 15), min_size=len(labels), max_size=len(labels))
    ties = draw(st.lists(numbers, max_size=3))
    return np.array(labels), [np.array(tie, np.int64) for tie in ties]


@given(tied(), FRACTIONS, st.integers(0, 2**32))
def test_nothing_that_is_tied_is_parted(
    samples: tuple[np.ndarray, list[np.ndarray]], fractions: list[float], seed: int
) -> None:
    labels, ties = samples
    part = cut(labels, ties, fractions, seed)
    assert part.shape == labels.shape
    assert set(part.tolist()) <= set(range(len(fractions)))
    for tie in ties:
        for number in set(tie.tolist()) - {-1}:
            assert len(set(part[tie == number].tolist())) == 1


@given(tied())
def test_bundles_are_those_of_a_walk_from_sample_to_sample(
    samples: tuple[np.ndarray, list[np.ndarray]],
) -> None:
    labels, ties = samples
    found = bundles(ties, len(labels))
    for start in range(len(labels)):
        reached, todo = {start}, [start]
        while todo:
            here = todo.pop()
            for tie in ties:
                near = set(np.flatnonzero(tie == tie[here]).tolist()) if tie[here] >= 0 else set()
                todo += near - reached
                reached |= near
        assert set(np.flatnonzero(found == found[start]).tolist()) == reached
    assert set(found.tolist()) == set(range(int(found.max()) + 1))


@given(LABELS, FRACTIONS, st.integers(0, 2**32))
def test_each_part_of_loose_samples_has_its_share_of_each_class_within_one(
    labels: list[int], fractions: list[float], seed: int
) -> None:
    part = cut(np.array(labels), [], fractions, seed)
    for label in set(labels):
        for place, fraction in enumerate(fractions):
            got = int(((np.array(labels) == label) & (part == place)).sum())
            assert abs(got - fraction * labels.count(label)) <= 1 + 1e-9


def test_persons_are_cut_near_to_the_wanted_shares() -> None:
    chance = np.random.default_rng(3)
    persons = chance.integers(0, 120, 1000)
    labels = chance.integers(0, 7, 1000)
    part = cut(labels, [persons], [0.8, 0.1, 0.1], 0)
    for label in range(7):
        shares = np.bincount(part[labels == label], minlength=3) / (labels == label).sum()
        np.testing.assert_allclose(shares, [0.8, 0.1, 0.1], atol=0.03)


def test_the_cut_is_drawn_by_its_seed_alone() -> None:
    labels = np.arange(200) % 7
    first, again = (cut(labels, [], [0.8, 0.1, 0.1], 5) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    other = cut(labels, [], [0.8, 0.1, 0.1], 6)
    assert (other != first).any()


def test_the_cut_is_the_same_for_ever() -> None:
    labels = np.array([0, 1] * 10)
    ties = [np.array([7, 7, 7, *[-1] * 17])]
    part = cut(labels, ties, [0.6, 0.2, 0.2], 1)
    # Not computed by hand: any other result would change the sets made from the same sources.
    assert part.tolist() == [0, 0, 0, 2, 0, 0, 2, 0, 1, 0, 2, 0, 0, 1, 0, 2, 0, 1, 1, 0]


@pytest.mark.parametrize("ties", [[], [np.zeros(0, np.int64)]])
def test_a_cut_of_nothing_is_nothing(ties: list[np.ndarray]) -> None:
    assert cut(np.zeros(0, np.int64), ties, [0.8, 0.2], 0).tolist() == []
