import numpy as np
import pytest

from pattlite_dist.errors import UserError
from pattlite_dist.evaluation.classes import Classes
from pattlite_dist.evaluation.predictions import Predictions


def predict(labels: list[int], table: list[list[float]]) -> Predictions:
    n = len(labels)
    return Predictions(
        np.arange(n), np.array(labels), np.arange(n, dtype=np.uint8),
        {"one": np.array(table)}, np.full((n, 3), 1 / 3),
    )  # fmt: skip


def test_the_same_classes_change_nothing() -> None:
    found = predict([0, 1], [[0.5, 0.5], [0.25, 0.75]])
    assert Classes(["a", "b"], ["a", "b"]).scored(found) is found


def test_the_same_classes_in_another_order_are_put_into_the_networks() -> None:
    found = Classes(["a", "b"], ["b", "a"]).scored(predict([0, 1], [[0.9, 0.1], [0.2, 0.8]]))
    assert found.labels.tolist() == [1, 0]
    assert found.probabilities["one"].tolist() == [[0.9, 0.1], [0.2, 0.8]]


def test_only_what_both_have_is_scored() -> None:
    classes = Classes(["a", "b", "c"], ["d", "c", "a"])
    assert (classes.both, classes.only_network, classes.only_shards) == (["a", "c"], ["b"], ["d"])
    table = [[0.2, 0.5, 0.3], [0.1, 0.8, 0.1], [0.6, 0.0, 0.4], [0.0, 1.0, 0.0]]
    found = classes.scored(predict([1, 0, 2, 1], table))
    assert found.ids.tolist() == [0, 2, 3] and found.flags.tolist() == [0, 2, 3]
    assert found.labels.tolist() == [1, 0, 1]
    expected = [[0.4, 0.6], [0.6, 0.4], [0.5, 0.5]]  # the last says nothing about either
    assert found.probabilities["one"] == pytest.approx(np.array(expected))
    assert found.target is None


def test_none_of_the_samples_may_be_left() -> None:
    found = Classes(["a", "b"], ["x", "b", "a"]).scored(predict([0], [[0.5, 0.5]]))
    assert len(found) == 0 and found.probabilities["one"].shape == (0, 2)


@pytest.mark.parametrize("shards", [["c", "d"], ["a", "c"]])
def test_fewer_than_two_in_common_are_no_score(shards: list[str]) -> None:
    with pytest.raises(UserError, match=r"classes a, b and s3://x has .*two in common; give other"):
        Classes(["a", "b"], shards).check("s3://x")
