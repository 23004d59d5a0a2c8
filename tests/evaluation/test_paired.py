import itertools
import math

import numpy as np
import pytest

from pattlite_dist.evaluation.paired import in_words, mcnemar, spread, two_sided


@pytest.mark.parametrize("tosses", range(11))
def test_p_is_the_share_of_all_sequences_at_least_as_uneven(tosses: int) -> None:
    heads_of = [sum(sequence) for sequence in itertools.product((0, 1), repeat=tosses)]
    for heads in range(tosses + 1):
        uneven = [abs(2 * h - tosses) >= abs(2 * heads - tosses) for h in heads_of]
        assert two_sided(heads, tosses) == sum(uneven) / len(uneven)


@pytest.mark.parametrize(
    ("heads", "tosses", "p"),
    # As scipy.stats.binomtest and R's binom.test give them.
    [(0, 0, 1.0), (0, 6, 0.03125), (5, 20, 0.04138946533203125), (15, 20, 0.04138946533203125),
     (10, 20, 1.0), (1, 12, 0.00634765625), (40, 100, 0.05688793364098078)],
)  # fmt: skip
def test_known_values(heads: int, tosses: int, p: float) -> None:
    assert two_sided(heads, tosses) == pytest.approx(p, rel=1e-12)


def test_large_counts_agree_with_the_normal_and_do_not_vanish() -> None:
    tosses, fewer = 20_000, 9_800
    z = (tosses / 2 - fewer - 0.5) / math.sqrt(tosses / 4)
    assert two_sided(fewer, tosses) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=0.01)
    assert 0 < two_sided(100, 1000) < 1e-150


def test_mcnemar_counts_only_where_the_two_differ() -> None:
    first = np.array([1, 1, 1, 1, 0, 0, 1, 0], bool)
    second = np.array([1, 0, 0, 1, 0, 1, 0, 0], bool)
    found = mcnemar(first, second)
    assert (found.only_first, found.only_second) == (3, 1)
    assert found.p == two_sided(3, 4) == 0.625
    assert mcnemar(first, first) == (0, 0, 1.0)
    assert mcnemar(second, first)[:2] == (1, 3)


def test_under_no_difference_p_is_not_below_a_level_more_often_than_that() -> None:
    draw = np.random.default_rng(0)
    rights = draw.random((1000, 2, 200)) < 0.7
    below = np.mean([mcnemar(a, b).p <= 0.05 for a, b in rights])
    assert 0.01 < below <= 0.06


def test_spread_is_of_n_minus_1_and_one_run_has_none() -> None:
    assert spread([1.0, 2.0, 4.0]) == pytest.approx((7 / 3, math.sqrt(7 / 3)))
    assert spread([0.5]) == (0.5, None)


def test_p_in_words() -> None:
    assert [in_words(p) for p in (1.0, 0.0414, 0.0005, 0.0)] == [
        "1.000", "0.041", "< 0.001", "< 0.001",
    ]  # fmt: skip
