"""Several runs summed up, and two compared on the same samples: pure functions."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Spread(NamedTuple):
    """Mean and standard deviation (of n - 1) of a score over runs; no deviation of one run."""

    mean: float
    deviation: float | None


def spread(values: Sequence[float]) -> Spread:
    """Mean and standard deviation of one value or more."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Spread(statistics.fmean(values), deviation)


class Paired(NamedTuple):
    """A paired test of two predictors.

    Attributes:
        only_first: samples that only the first got right.
        only_second: samples that only the second got right.
        p: of so uneven a split of these, or a more uneven one, if neither were better; two-sided.
    """

    only_first: int
    only_second: int
    p: float


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Paired:
    """McNemar's test (1947), exact: the samples that one alone got right are fair coins.

    Args:
        first: whether the one predictor was right, bool [n].
        second: whether the other was, about the same samples.
    """
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    return Paired(only_first, only_second, two_sided(only_first, only_first + only_second))


def two_sided(heads: int, tosses: int) -> float:
    """Exact p of so many heads of a fair coin, or of a number as far from the half.

    In whole numbers up to the last division, so that it is neither approximate where counts are
    small nor rounded to nothing where they are large.
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
    """A p to be read: three places, and no more than is meant."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
