"""Summaries of several runs, and a paired test of two on the same samples: pure functions."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Spread(NamedTuple):
    """Mean and standard deviation (n - 1) of a score over runs; no deviation for one run."""

    mean: float
    deviation: float | None


def spread(values: Sequence[float]) -> Spread:
    """Mean and standard deviation of one or more values."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Spread(statistics.fmean(values), deviation)


class Paired(NamedTuple):
    """A paired test of two predictors.

    Attributes:
        only_first: samples that only the first got right.
        only_second: samples that only the second got right.
        p: probability of a split at least this uneven if neither were better; two-sided.
    """

    only_first: int
    only_second: int
    p: float


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Paired:
    """McNemar's test (1947), exact: samples that only one got right are tosses of a fair coin.

    Args:
        first: whether the first predictor was right, bool [n].
        second: whether the second was, on the same samples.
    """
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    return Paired(only_first, only_second, two_sided(only_first, only_first + only_second))


def two_sided(heads: int, tosses: int) -> float:
    """Exact p of this many heads of a fair coin, or of any number at least as far from half.

    Computed in integers up to the last division, so it is neither approximate for small counts
    nor rounded to zero for large ones.
    """
    fewer = min(heads, tosses - heads)
    ways = tail = 1
    for count in range(fewer):
        ways = ways * (tosses - count) // (count + 1)
        tail += ways
    if 2 * tail >= 1 << tosses:  # the two tails meet in the middle
        return 1.0
    return 2 * tail / (1 << tosses)


def in_words(p: float) -> str:
    """A p for display: three decimals."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
