from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pattlite_dist.data.reader import ShardReader
from pattlite_dist.evaluation.findings import Scored, facts, guesses, marked, orders, select


class Reader:
    """Ten thousand synthetic samples whose only pixel, label and flags follow from their ids."""

    def __len__(self) -> int:
        return 10_000

    def gather(self, ids: np.ndarray) -> Any:
        assert len(ids) <= 4096
        self.block = self
        self.images = (ids % 256).astype(np.uint8)[:, None, None, None]
        self.labels = ids % 7
        self.flags = (ids % 4).astype(np.uint8)
        return self


READER = cast(ShardReader, Reader())


@given(arrays(np.int64, st.integers(1, 60), elements=st.integers(0, 6)))
def test_each_order_has_every_sample_once_and_class_order_is_sorted(labels: np.ndarray) -> None:
    found = orders(labels)
    for ids in found.values():
        assert sorted(ids.tolist()) == list(range(len(labels)))
    assert (np.diff(labels[found["class_order"]]) >= 0).all()
    assert (orders(labels)["shuffled"] == found["shuffled"]).all()


def test_a_shuffled_order_is_not_that_of_the_classes() -> None:
    found = orders(np.arange(100))
    assert (found["shuffled"] != found["class_order"]).mean() > 0.9


def test_guesses_are_by_id_and_batches_have_the_size_asked_for() -> None:
    sizes: list[int] = []

    def predict(images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        return torch.nn.functional.one_hot(images[:, 0, 0, 0].long() % 5, 5).double()

    ids = np.array([9, 2, 4, 0, 1, 3, 8, 5, 7, 6])
    told: list[int] = []
    found = guesses(predict, READER, ids, 4, torch.device("cpu"), told.append)
    assert found.tolist() == [i % 5 for i in range(10)]
    assert sizes == [4, 4, 2] and told == [4, 8, 10]


def test_labels_and_flags_of_a_large_split_are_read_in_parts() -> None:
    labels, flags = facts(READER)
    assert (labels == np.arange(10_000) % 7).all() and (flags == np.arange(10_000) % 4).all()


def test_marked_samples_are_told_apart_from_the_others() -> None:
    right = np.array([True, True, False, True, False])
    found = marked(right, np.array([True, False, True, False, False]))
    assert (found.marked.samples, found.marked.top1) == (2, 0.5)
    assert (found.others.samples, found.others.top1) == (3, pytest.approx(2 / 3))
    none = marked(right, np.zeros(5, bool))
    assert (none.marked.samples, none.marked.top1) == (0, None)


def epoch(number: int, val: float, top1: float) -> Scored:
    return Scored(name=f"epoch={number}", epoch=number, val=val, top1=top1)


def test_the_gain_of_choosing_on_test_is_that_over_the_best_on_val() -> None:
    found = select([epoch(3, 0.7, 0.66), epoch(1, 0.6, 0.69), epoch(2, 0.7, 0.68)])
    assert [item.epoch for item in found.checkpoints] == [1, 2, 3]
    assert (found.chosen, found.best) == ("epoch=2", "epoch=1")  # the earlier of equals
    assert found.gain == pytest.approx(0.01)
    assert select([epoch(1, 0.5, 0.4)]).gain == 0
