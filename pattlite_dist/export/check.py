"""Proof that an exported file predicts as the run does, on val, in batches of several sizes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pattlite_dist.errors import UserError
from pattlite_dist.evaluation.bootstrap import Floats
from pattlite_dist.shards.sources.base import Pixels

Predict = Callable[[Pixels], Floats]
Gather = Callable[[NDArray[np.int64]], Pixels]

TOLERANCE = 1e-4  # of a probability, between PyTorch and another float32
HALF = 0.02  # the same, with weights that were rounded to half precision
LARGEST_LOSS = 0.05  # of top-1, by int8
_SIZES = (1, 3, 17, 64)  # of batches in turn, then the last; the example of the export had two


@dataclass(frozen=True)
class Checked:
    """What was found.

    Attributes:
        samples: of val.
        top1: of the file.
        top1_run: of the run in PyTorch.
        difference: the largest of a probability.
    """

    samples: int
    top1: float
    top1_run: float
    difference: float


def batches(samples: int) -> Iterator[NDArray[np.int64]]:
    """Places of all samples, in batches of 1, 3, 17, and then 64."""
    start, number = 0, 0
    while start < samples:
        size = _SIZES[min(number, len(_SIZES) - 1)]
        yield np.arange(start, min(start + size, samples))
        start, number = start + size, number + 1


def check(predict: Predict, gather: Gather, table: Floats, labels: NDArray[np.int64]) -> Checked:
    """Compare a file's probabilities with the run's.

    Args:
        predict: runs the file.
        gather: the images of these places in val.
        table: the run's probabilities, calibrated as the file's, [n, classes].
        labels: of val, [n].

    Raises:
        UserError: the file cannot be run with a batch.
    """
    found = np.empty_like(table)
    for places in batches(len(table)):
        try:
            found[places] = predict(gather(places))
        except UserError:
            raise
        except Exception as error:  # onnxruntime's classes have no common base
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"the exported network cannot be run with {len(places)} images ({reason}); "
                "nothing was written: use --format safetensors"
            ) from error
    difference = float(np.abs(found - table).max())  # NaN where one is NaN
    return Checked(
        len(table),
        float((found.argmax(1) == labels).mean()),
        float((table.argmax(1) == labels).mean()),
        difference,
    )


def require_equal(found: Checked, tolerance: float = TOLERANCE) -> None:
    """Refuse a file that does not predict as PyTorch does.

    Args:
        found: when they were compared.
        tolerance: of a probability.

    Raises:
        UserError: it does not.
    """
    if not found.difference <= tolerance:
        raise UserError(
            f"the exported network differs from PyTorch's by {found.difference:.2g} in a "
            f"probability (allowed: {tolerance:g}); nothing was written: use --format safetensors"
        )


def require_accurate(found: Checked) -> None:
    """Refuse a file in int8 that has lost too much.

    Raises:
        UserError: it has.
    """
    loss = found.top1_run - found.top1
    if not (loss <= LARGEST_LOSS and np.isfinite(found.difference)):
        raise UserError(
            f"int8 loses {100 * loss:.1f} points of val's top-1 (allowed: {100 * LARGEST_LOSS:g}); "
            "nothing was written: use --format onnx"
        )
