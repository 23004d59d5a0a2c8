import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score

from pattlite_dist.evaluation import bootstrap
from pattlite_dist.evaluation.bootstrap import intervals, rates

counts = st.lists(st.integers(0, 6), min_size=9, max_size=9).filter(any)


def by_hand(confusion: np.ndarray) -> tuple[float, float, float]:
    """Top-1, macro-F1 and balanced accuracy from their definitions, in loops."""
    f1s, recalls = [], []
    for k in range(len(confusion)):
        true, predicted = confusion[k].sum(), confusion[:, k].sum()
        if true + predicted:
            f1s.append(2 * confusion[k, k] / (true + predicted))
        if true:
            recalls.append(confusion[k, k] / true)
    return np.trace(confusion) / confusion.sum(), np.mean(f1s), np.mean(recalls)


@given(counts)
def test_rates_are_those_of_the_definitions(cells: list[int]) -> None:
    confusion = np.array(cells).reshape(3, 3)
    assert [float(value) for value in rates(confusion)] == pytest.approx(by_hand(confusion))


@given(counts)
def test_rates_are_those_of_torchmetrics_where_it_has_them(cells: list[int]) -> None:
    confusion = np.array(cells).reshape(3, 3)
    true, guessed = (torch.from_numpy(index) for index in np.indices((3, 3)).reshape(2, -1))
    labels, guesses = (t.repeat_interleave(torch.tensor(cells)) for t in (true, guessed))
    found = rates(confusion)
    assert float(found.top1) == pytest.approx(
        float(multiclass_accuracy(guesses, labels, 3, average="micro")), abs=1e-6
    )
    assert float(found.macro_f1) == pytest.approx(
        float(multiclass_f1_score(guesses, labels, 3, average="macro")), abs=1e-6
    )


def test_a_stack_of_matrices_is_scored_as_each_of_them() -> None:
    stack = np.random.default_rng(0).integers(0, 9, (5, 4, 4))
    for number, values in enumerate(zip(*rates(stack), strict=True)):
        assert values == pytest.approx(by_hand(stack[number]))


def test_intervals_are_those_of_samples_drawn_one_by_one() -> None:
    confusion = np.array([[30, 6, 4], [9, 21, 0], [3, 5, 22]])
    cells = np.repeat(np.arange(9), confusion.reshape(-1))
    draw = np.random.default_rng(7)
    resampled = [
        by_hand(np.bincount(draw.choice(cells, len(cells)), minlength=9).reshape(3, 3))
        for _ in range(3000)
    ]
    expected = np.quantile(resampled, (0.025, 0.975), axis=0).T
    found = intervals(confusion)
    assert list(found) == ["top1", "macro_f1", "balanced_accuracy"]
    assert np.array(list(found.values())) == pytest.approx(expected, abs=0.012)


def test_the_interval_of_a_proportion_is_that_of_its_binomial() -> None:
    # 0.8 +- 1.96 * sqrt(0.8 * 0.2 / 2500)
    low, high = intervals(np.array([[1200, 200], [300, 800]]))["top1"]
    assert (low, high) == pytest.approx((0.78432, 0.81568), abs=0.0015)


def test_the_same_matrix_has_the_same_interval_and_a_perfect_one_has_no_width() -> None:
    confusion = np.array([[5, 2], [1, 4]])
    assert intervals(confusion) == intervals(confusion.copy())
    perfect = intervals(np.diag([3, 0, 4]))
    assert set(perfect.values()) == {(1.0, 1.0)}
    assert intervals(np.array([[0, 0], [1, 0]]))["top1"] == (0, 0)


# As they were when all resamples were drawn at once.
GOLDEN = {
    "top1": (0.5034965034965035, 0.5990675990675991),
    "macro_f1": (0.5025810206045318, 0.5982980261448769),
    "balanced_accuracy": (0.507951082231155, 0.6042072809661385),
}


@pytest.mark.parametrize("at_once", [10_000, 4_000, 999, 1])
def test_intervals_do_not_depend_on_how_many_resamples_are_drawn_at_once(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    confusion = np.random.default_rng(7).integers(0, 9, (7, 7)) + np.diag(np.full(7, 30))
    if at_once == 1:
        monkeypatch.setattr(bootstrap, "RESAMPLES", 50)
        expected = intervals(confusion)
    else:
        expected = GOLDEN
    monkeypatch.setattr(bootstrap, "_CELLS", 49 * at_once)
    assert intervals(confusion) == expected


def test_the_bootstrap_of_many_classes_takes_little_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 300)
    confusion = np.diag(np.full(365, 20))  # all at once: 320 MB
    tracemalloc.start()
    try:
        intervals(confusion)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 40e6
