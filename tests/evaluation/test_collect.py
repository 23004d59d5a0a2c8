from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest
import torch

from pattlite_dist.data.module import FERData
from pattlite_dist.data.plan import EvalPlan
from pattlite_dist.errors import UserError
from pattlite_dist.evaluation.collect import collect

SAMPLES, CLASSES, BATCH = 23, 3, 4
CPU = torch.device("cpu")


class Data:
    """A stream like FERData's, of synthetic images that show which sample they are."""

    def __init__(self, soft: bool = False, lost: int | None = None) -> None:
        self.manifest, self.soft, self.lost = self, soft, lost
        self.labels = [f"class {i}" for i in range(CLASSES)]

    def samples(self, split: str) -> int:
        return SAMPLES

    def preprocess(self, images: torch.Tensor) -> torch.Tensor:
        return images.float()

    def eval_dataloader(self, split: str) -> Iterator[dict[str, Any]]:
        plan = EvalPlan(SAMPLES, BATCH, 1)
        for step in range(plan.steps):
            ids, counts = plan.batch(step, 0)
            batch = {
                "image": torch.from_numpy(ids)[:, None, None, None].byte().expand(-1, 1, 2, 2),
                "label": torch.from_numpy(ids % CLASSES),
                "flags": torch.from_numpy(ids % 4).byte(),
                "id": torch.from_numpy(ids),
                "counts": torch.from_numpy(counts & (ids != self.lost)),
            }
            if self.soft:
                batch["target"] = torch.from_numpy(target(ids)).float()
            yield batch


def target(ids: np.ndarray) -> np.ndarray:
    shares = np.stack([ids % 4, ids % 3, np.ones_like(ids)], 1).astype(np.float64)
    return shares / shares.sum(1, keepdims=True)


def net(x: torch.Tensor) -> torch.Tensor:
    sample = x[:, 0, 0, 0]
    return torch.stack([sample / 7, torch.ones_like(sample), sample % 5], 1)


def run(data: Data, model: Any = net) -> Any:
    return collect(model, cast(FERData, data), "test", CPU, ("one", "flip"))


def test_each_sample_has_its_own_row_and_padding_none() -> None:
    found = run(Data())
    ids = np.arange(SAMPLES)
    assert np.array_equal(found.ids, ids)
    assert np.array_equal(found.labels, ids % CLASSES)
    assert np.array_equal(found.flags, ids % 4)
    images = torch.arange(SAMPLES)[:, None, None, None].expand(-1, 1, 2, 2).float()
    expected = net(images).double().softmax(1).numpy()
    for view in ("one", "flip"):
        assert np.array_equal(found.probabilities[view], expected)
    assert found.target is None


def test_votes_come_along_where_the_stream_has_them() -> None:
    assert run(Data(soft=True)).target == pytest.approx(target(np.arange(SAMPLES)), abs=1e-6)


def test_a_lost_sample_is_no_score() -> None:
    with pytest.raises(RuntimeError, match=r"1 lost, 0 counted more than once; .* sample 5"):
        run(Data(lost=5))


def test_outputs_that_are_not_finite_are_one_line() -> None:
    def diverged(x: torch.Tensor) -> torch.Tensor:
        logits = net(x)
        return torch.where(x[:, 0, 0, 0, None] >= 20, torch.inf, logits)

    with pytest.raises(UserError, match=r"NaN or infinite for 3 of 23 samples of test"):
        run(Data(), diverged)
