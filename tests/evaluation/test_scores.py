import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import (
    multiclass_average_precision,
    multiclass_precision,
    multiclass_recall,
)

from pattlite_dist.evaluation.predictions import Predictions
from pattlite_dist.evaluation.scores import (
    BINS,
    agreement,
    calibration,
    confusion_matrix,
    precision_recall,
    score,
    worst_mistakes,
)
from tests.evaluation.samples import CLASSES, predictions


def made(table: list[list[float]], labels: list[int]) -> Predictions:
    n = len(labels)
    return Predictions(
        np.arange(n), np.array(labels), np.zeros(n, np.uint8), {"one": np.array(table)}
    )


PAPER = made(
    [[0.7, 0.2, 0.1, 0.0], [0.5, 0.3, 0.2, 0.0], [0.1, 0.6, 0.3, 0.0],
     [0.2, 0.2, 0.6, 0.0], [0.1, 0.55, 0.35, 0.0]],
    [0, 1, 1, 2, 2],
)  # fmt: skip


def test_a_case_small_enough_for_paper() -> None:
    found = score(PAPER, CLASSES)  # predicts 0 0 1 2 1
    assert found.samples == 5
    assert found.top1 == 3 / 5
    assert found.confusion == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    assert found.recall == {"angry": 1, "happy": 0.5, "sad": 0.5, "neutral": None}
    assert found.precision == {"angry": 0.5, "happy": 0.5, "sad": 1, "neutral": None}
    assert found.balanced_accuracy == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert found.macro_f1 == pytest.approx((2 / 3 + 1 / 2 + 2 / 3) / 3)
    right = (0.7, 0.3, 0.6, 0.6, 0.35)
    assert found.nll == pytest.approx(-sum(map(math.log, right)) / 5)
    # Sorted by P(sad): .6 right, .35 right. By P(happy): .6 right, .55 wrong, .3 right.
    assert found.average_precision["sad"] == pytest.approx(1)
    assert found.average_precision["happy"] == pytest.approx((1 + 2 / 3) / 2)
    assert found.average_precision["neutral"] is None
    # Confidences .5 (wrong), .55 (wrong), .6 twice (right), .7 (right); bins of 1/15.
    gaps = 0.5 + 0.55 + 2 * 0.4 + 0.3
    assert found.ece == pytest.approx(gaps / 5, abs=1e-6)
    assert found.agreement is None


def test_scores_equal_torchmetrics_where_all_classes_occur() -> None:
    found = predictions(400, 3)
    scores = score(found, CLASSES)
    table, labels = torch.from_numpy(found.probabilities["one"]), torch.from_numpy(found.labels)
    for name, function in (
        ("recall", multiclass_recall),
        ("precision", multiclass_precision),
        ("average_precision", multiclass_average_precision),
    ):
        values = function(table, labels, len(CLASSES), average=None)
        assert list(getattr(scores, name).values()) == pytest.approx(values.tolist(), abs=1e-6)


def test_the_bins_of_the_diagram_are_those_of_the_calibration_error() -> None:
    found = predictions(500, 4)
    table = np.round(found.probabilities["one"] * BINS * 4) / (BINS * 4)  # many on bin edges
    found = Predictions(found.ids, found.labels, found.flags, {"one": table})
    count, confidence, accuracy = calibration(table, found.labels)
    assert count.sum() == 500
    there = count > 0
    gaps = (count * np.abs(confidence - accuracy))[there].sum() / 500
    assert score(found, CLASSES).ece == pytest.approx(gaps, abs=1e-6)


def test_certainty_of_a_wrong_class_costs_much_but_not_infinity() -> None:
    found = score(made([[1.0, 0.0, 0.0, 0.0]], [1]), CLASSES)
    assert 700 < found.nll < 710
    assert found.ece == 1
    assert (found.top1, found.macro_f1, found.balanced_accuracy) == (0, 0, 0)


def test_agreement_with_votes_counts_a_tie_and_weighs_by_the_votes() -> None:
    table = np.array([[0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.2, 0.2, 0.6]])
    target = np.array([[0.5, 0.5, 0.0], [0.7, 0.2, 0.1], [0.0, 0.0, 1.0]])
    found = agreement(table, target)
    assert found.majority == pytest.approx(2 / 3)
    entropies = [
        -0.5 * math.log(0.5) - 0.5 * math.log(0.3),
        -0.7 * math.log(0.2) - 0.2 * math.log(0.5) - 0.1 * math.log(0.3),
        -math.log(0.6),
    ]
    assert found.cross_entropy == pytest.approx(sum(entropies) / 3)
    assert score(predictions(30, soft=True), CLASSES).agreement is not None


def test_views_have_scores_of_their_own() -> None:
    found = predictions(60, views=("one", "flip"))
    one, flip = score(found, CLASSES), score(found, CLASSES, "flip")
    assert one.confusion != flip.confusion
    assert flip.confusion == confusion_matrix(found, "flip").tolist()


def test_the_curve_of_a_class_ends_where_its_threshold_does() -> None:
    precision, recall = precision_recall(PAPER.probabilities["one"], PAPER.labels, 2)
    assert (precision[-1], recall[-1]) == (1, 0)
    assert recall[0] == 1


def test_the_worst_mistakes_are_wrong_and_the_surest_come_first() -> None:
    found = predictions(200)
    worst = worst_mistakes(found, 10)
    sure = worst.probabilities["one"].max(1)
    assert len(worst) == 10
    assert (worst.guesses() != worst.labels).all()
    assert (np.diff(sure) <= 0).all()
    wrong = found.where(found.guesses() != found.labels)
    assert sure[0] == wrong.probabilities["one"].max()
    assert np.array_equal(found.labels[worst.ids], worst.labels)
    assert len(worst_mistakes(found, 10_000)) == len(wrong)
    assert len(worst_mistakes(made([[0.9, 0.1]], [0]), 5)) == 0
