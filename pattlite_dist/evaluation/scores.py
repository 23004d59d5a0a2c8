"""Scores of predictions: pure functions of the table."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics.functional.classification import (
    binary_average_precision,
    binary_precision_recall_curve,
    multiclass_confusion_matrix,
)

from pattlite_dist.evaluation.bootstrap import Counts, Floats, intervals, rates, shares
from pattlite_dist.evaluation.predictions import Predictions
from pattlite_dist.evaluation.schema import Agreement, ByClass, PartScores, View
from pattlite_dist.train.metrics import surest_mistakes
from pattlite_dist.train.temperature import BINS, calibration_error

_LEAST = np.finfo(np.float64).tiny  # avoids the log of 0


def score(found: Predictions, classes: Sequence[str], view: View = "one") -> PartScores:
    """All scores of one or more samples, from one view."""
    table, labels = found.probabilities[view], found.labels
    confusion = confusion_matrix(found, view)
    right, true, predicted = np.diagonal(confusion), confusion.sum(1), confusion.sum(0)
    around = intervals(confusion)
    points = {name: float(value) for name, value in rates(confusion)._asdict().items()}
    certain = table[np.arange(len(labels)), labels]
    return PartScores(
        samples=len(found),
        **points,
        **{f"{name}_interval": interval for name, interval in around.items()},
        nll=float(-np.log(np.maximum(certain, _LEAST)).mean()),
        ece=calibration_error(table, labels),
        recall=_by_class(classes, shares(right, true)),
        precision=_by_class(classes, shares(right, predicted)),
        average_precision=_by_class(classes, average_precisions(table, labels)),
        confusion=confusion.tolist(),
        agreement=None if found.target is None else agreement(table, found.target),
    )


def confusion_matrix(found: Predictions, view: View = "one") -> Counts:
    """Counts, int64 [true class, predicted class]."""
    classes = found.probabilities[view].shape[1]
    guesses, labels = torch.from_numpy(found.guesses(view)), torch.from_numpy(found.labels)
    return multiclass_confusion_matrix(guesses, labels, classes).numpy().astype(np.int64)


def agreement(table: Floats, target: Floats) -> Agreement:
    """Agreement of probabilities with shares of votes, both [n, classes]."""
    chosen = target[np.arange(len(table)), table.argmax(1)]
    entropy = -(target * np.log(np.maximum(table, _LEAST))).sum(1)
    return Agreement(
        majority=float((chosen == target.max(1)).mean()), cross_entropy=float(entropy.mean())
    )


def average_precisions(table: Floats, labels: NDArray[np.int64]) -> Floats:
    """Average precision of each class against the rest; NaN for a class that does not occur."""
    return np.array(
        [
            float(binary_average_precision(*_one_against_rest(table, labels, number)))
            if (labels == number).any()
            else np.nan
            for number in range(table.shape[1])
        ]
    )


def precision_recall(
    table: Floats, labels: NDArray[np.int64], number: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Precision and recall at every threshold, for a class that occurs, against the rest."""
    precision, recall, _ = binary_precision_recall_curve(*_one_against_rest(table, labels, number))
    return precision.numpy(), recall.numpy()


def _one_against_rest(
    table: Floats, labels: NDArray[np.int64], number: int
) -> tuple[torch.Tensor, torch.Tensor]:
    scores = torch.from_numpy(np.ascontiguousarray(table[:, number]))
    return scores, torch.from_numpy((labels == number).astype(np.int64))


def calibration(table: Floats, labels: NDArray[np.int64]) -> tuple[Counts, Floats, Floats]:
    """The data of a reliability diagram, for each bin of the highest probability.

    Returns:
        Samples, mean confidence and accuracy; the latter two are NaN in empty bins.
    """
    confidence, right = table.max(1), table.argmax(1) == labels
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    count = np.bincount(bins, minlength=BINS)
    confidences = np.bincount(bins, confidence, BINS)
    return count, shares(confidences, count), shares(np.bincount(bins, right, BINS), count)


def worst_mistakes(found: Predictions, most: int, view: View = "one") -> Predictions:
    """The wrong predictions with the highest probability, the highest first."""
    return found.where(surest_mistakes(found.probabilities[view], found.labels, most))


def _by_class(classes: Sequence[str], values: Floats) -> ByClass:
    named = zip(classes, values.tolist(), strict=True)
    return {name: None if np.isnan(value) else value for name, value in named}
