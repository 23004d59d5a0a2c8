"""Scores that are functions of a confusion matrix, and their bootstrap intervals."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RESAMPLES, SEED, LEVEL = 10_000, 0, 0.95
_CELLS = 1 << 20  # of the matrices that are drawn at a time

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


class Rates(NamedTuple):
    """Scores of one matrix, or of a stack of them; each of the stack's shape, 0-1."""

    top1: Floats
    macro_f1: Floats
    balanced_accuracy: Floats


def shares(part: Counts | Floats, whole: Counts) -> Floats:
    """`part / whole`, NaN where `whole` is 0."""
    empty: Floats = np.full(part.shape, np.nan)
    return np.divide(part, whole, out=empty, where=whole > 0)


def rates(confusion: Counts) -> Rates:
    """Scores from counts [..., true class, predicted class].

    In double precision, so that a score and its interval are the same function; torchmetrics
    uses float32. F1 is averaged over the classes that occur or are predicted (as in torchmetrics
    and scikit-learn), recall over those that occur (as in scikit-learn's balanced accuracy).
    """
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    true, predicted = confusion.sum(-1), confusion.sum(-2)
    return Rates(
        right.sum(-1) / confusion.sum((-2, -1)),
        np.nanmean(shares(2 * right, true + predicted), -1),
        np.nanmean(shares(right, true), -1),
    )


def intervals(confusion: Counts) -> dict[str, tuple[float, float]]:
    """Bootstrap percentile intervals (Efron 1979) of the rates of a confusion matrix.

    Drawing n of n samples with replacement and counting them is one draw from a multinomial over
    the matrix's cells, so many resamples are drawn at once.

    Args:
        confusion: counts [true class, predicted class], at least one sample.
    """
    samples = int(confusion.sum())
    shares_of_cells = confusion.reshape(-1) / samples
    draw = np.random.default_rng(SEED)
    at_once = max(1, _CELLS // confusion.size)
    parts = []
    for start in range(0, RESAMPLES, at_once):
        count = min(at_once, RESAMPLES - start)
        drawn = draw.multinomial(samples, shares_of_cells, count)
        parts.append(rates(drawn.reshape(count, *confusion.shape)))
    tail = (1 - LEVEL) / 2
    bounds = {}
    for name, pieces in zip(Rates._fields, zip(*parts, strict=True), strict=True):
        values = np.concatenate(pieces)
        bounds[name] = float(np.quantile(values, tail)), float(np.quantile(values, 1 - tail))
    return bounds
