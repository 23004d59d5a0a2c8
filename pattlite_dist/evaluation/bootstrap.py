"""Scores that are functions of a confusion matrix, and their bootstrap intervals."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RESAMPLES, SEED, LEVEL = 10_000, 0, 0.95

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
    the matrix's cells, so all resamples are drawn at once.

    Args:
        confusion: counts [true class, predicted class], at least one sample.
    """
    samples = int(confusion.sum())
    draw = np.random.default_rng(SEED)
    drawn = draw.multinomial(samples, confusion.reshape(-1) / samples, RESAMPLES)
    resampled = rates(drawn.reshape(RESAMPLES, *confusion.shape))
    tail = (1 - LEVEL) / 2
    return {
        name: (float(np.quantile(values, tail)), float(np.quantile(values, 1 - tail)))
        for name, values in resampled._asdict().items()
    }
