"""Temperature scaling (Guo et al. 2017): one number that makes probabilities honest.

The logits are divided by a temperature that minimises the negative log-likelihood on val. The order
of the classes, and so every accuracy, stays as it is.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torchmetrics.functional.classification import multiclass_calibration_error

from pattlite_dist import __version__
from pattlite_dist.files import write_text
from pattlite_dist.settings import Strict

Floats = NDArray[np.float64]

CALIBRATION_NAME = "calibration.json"
BINS = 15  # of confidence
LOWEST, HIGHEST = 0.1, 10.0  # temperatures; a network beyond them is not to be saved by one
_HALVINGS = 60
_LEAST = np.finfo(np.float64).tiny  # avoids the log of 0


class Mark(NamedTuple):
    """Which checkpoint: the name of its file, its epoch and step."""

    checkpoint: str
    epoch: int
    step: int


class Calibration(Strict):
    """`calibration.json`: how a checkpoint was calibrated on val.

    Attributes:
        checkpoint, epoch, step: what was calibrated.
        manifest: fingerprint of the shards.
        samples: of val.
        temperature: that the logits are divided by.
        nll, ece: before and after, on val; see `evaluation.schema.PartScores`.
    """

    format: str = Field("pattlite-calibration", pattern="^pattlite-calibration$")
    version: int = Field(1, ge=1, le=1)
    created_by: str
    checkpoint: str
    epoch: int = Field(ge=0)
    step: int = Field(ge=0)
    manifest: str
    samples: int = Field(gt=0)
    temperature: float = Field(ge=LOWEST, le=HIGHEST)
    nll: tuple[float, float]
    ece: tuple[float, float]


def fit_temperature(table: Floats, labels: NDArray[np.int64]) -> float:
    """The temperature with the lowest negative log-likelihood.

    That is a convex function of the inverse temperature, so its slope is bisected: the same table
    gives the same bits.

    Args:
        table: probabilities, [n, classes].
        labels: [n].
    """
    logits = np.log(np.maximum(table, _LEAST))
    certain = logits[np.arange(len(labels)), labels]
    low, high = 1 / HIGHEST, 1 / LOWEST
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        weights = _softmax(logits * middle)
        if ((weights * logits).sum(1) - certain).mean() > 0:
            high = middle
        else:
            low = middle
    return float(2 / (low + high))


def tempered(table: Floats, temperature: float) -> Floats:
    """What probabilities become if their logits are divided by a temperature."""
    if temperature == 1:
        return table
    return _softmax(np.log(np.maximum(table, _LEAST)) / temperature)


def _softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    shares: Floats = powers / powers.sum(1, keepdims=True)
    return shares


def calibration_error(table: Floats, labels: NDArray[np.int64]) -> float:
    """The expected calibration error over `BINS` bins."""
    found = multiclass_calibration_error(
        torch.from_numpy(table), torch.from_numpy(labels), table.shape[1], BINS
    )
    return float(found)


def measure(
    table: Floats,
    labels: NDArray[np.int64],
    mark: Mark,
    manifest: str,
    temperature: float | None = None,
) -> Calibration:
    """Fit the temperature of a checkpoint, or measure what a given one does.

    Args:
        table: its probabilities of val from one view, [n, classes].
        labels: of val, [n].
        mark: the checkpoint.
        manifest: fingerprint of the shards.
        temperature: to measure.
    """
    if temperature is None:
        temperature = min(max(fit_temperature(table, labels), LOWEST), HIGHEST)
    both = [table, tempered(table, temperature)]
    nll_before, nll_after = (
        float(-np.log(np.maximum(one[np.arange(len(labels)), labels], _LEAST)).mean())
        for one in both
    )
    ece_before, ece_after = (calibration_error(one, labels) for one in both)
    return Calibration(
        created_by=f"pattlite_dist {__version__}",
        **mark._asdict(),
        manifest=manifest,
        samples=len(labels),
        temperature=temperature,
        nll=(nll_before, nll_after),
        ece=(ece_before, ece_after),
    )


def save_calibration(run: Path, found: Calibration) -> Path:
    """Write `calibration.json` into a run's folder, whole or not at all."""
    path = run / CALIBRATION_NAME
    write_text(path, found.model_dump_json(indent=1) + "\n")
    return path
