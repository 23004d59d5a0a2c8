from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pattlite_dist.data.reader import ShardReader
from pattlite_dist.evaluation.independence import choose_probes, measure, measure_split
from pattlite_dist.evaluation.views import predictor
from pattlite_dist.model.build import network
from pattlite_dist.model.settings import ModelConfig
from tests.evaluation.samples import settle


def images(n: int, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, 48, 48), dtype=torch.uint8, generator=draw)


def prepare(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.float() / 127.5 - 1


@pytest.mark.parametrize("attention", ["patches", "none", "batch"])
def test_only_attention_over_the_batch_is_found_out(attention: Any) -> None:
    torch.manual_seed(0)
    config = ModelConfig(name="pattlite", attention=attention)
    net = network(config, 48, 7)
    settle(net)
    found = measure(predictor(net, prepare), images(8), images(8, 1))
    assert found.samples == 8
    assert found.holds is (attention != "batch")
    assert (found.largest > 1e-3) is (attention == "batch")
    if attention == "batch":
        # Attention ignores order, so only other companions change a prediction.
        assert found.reordered == pytest.approx(found.together, abs=1e-5)


def moved(predict: Any) -> tuple[bool, bool, bool]:
    found = measure(predict, images(6), images(6, 1))
    parts = (found.together, found.reordered, found.companions)
    return tuple(part > found.tolerance for part in parts)  # type: ignore[return-value]


def test_each_way_of_depending_on_a_batch_is_seen() -> None:
    def level(pixels: torch.Tensor) -> torch.Tensor:
        return pixels.double().mean((1, 2, 3))[:, None] / 255

    assert moved(level) == (False, False, False)
    assert moved(lambda x: level(x) * len(x) / 20) == (True, True, True)
    assert moved(lambda x: level(x) - level(x).mean() + 0.5) == (True, True, True)

    def by_place(x: torch.Tensor) -> torch.Tensor:  # the middle of a batch of six stays in place
        return level(x) + torch.arange(len(x))[:, None] * 1e-3

    assert moved(by_place) == (True, True, True)

    def only_order(x: torch.Tensor) -> torch.Tensor:  # a different figure if the first is darker
        return level(x) + 0.01 * float(len(x) > 1 and x[0].sum() != images(6)[0].sum())

    assert moved(only_order) == (False, True, True)

    def only_others(x: torch.Tensor) -> torch.Tensor:
        return level(x) + 0.01 * float(len(x) > 6)

    assert moved(only_others) == (False, False, True)


def test_batchnorm_left_in_training_mode_is_found_out() -> None:
    torch.manual_seed(0)
    net = network(ModelConfig(name="pattlite"), 48, 7).eval()
    assert measure(predictor(net, prepare), images(4), images(4, 1)).holds
    net.backbone.train()
    assert not measure(predictor(net, prepare), images(4), images(4, 1)).holds


@given(st.integers(1, 5000), st.integers(1, 64))
def test_probes_and_companions_are_spread_and_apart(samples: int, probes: int) -> None:
    ids, others = choose_probes(samples, probes)
    assert len(ids) == len(others) == min(samples, probes)
    for chosen in (ids, others):
        assert len(set(chosen.tolist())) == len(chosen)
        assert chosen.min() >= 0 and chosen.max() < samples
    if samples >= 2 * probes:
        assert not set(ids.tolist()) & set(others.tolist())
        assert np.diff(ids).min(initial=samples) >= samples // probes


class Reader:
    """Ten images, each of one grey level."""

    def __len__(self) -> int:
        return 10

    def gather(self, ids: np.ndarray) -> Any:
        self.block = self
        self.images = np.broadcast_to(
            ids.astype(np.uint8)[:, None, None, None], (len(ids), 1, 2, 2)
        )
        self.images = np.ascontiguousarray(self.images)
        return self


def test_a_split_is_asked_through_its_reader() -> None:
    def predict(x: torch.Tensor) -> torch.Tensor:
        return x.double().amax((1, 2, 3))[:, None] / 10

    reader = cast(ShardReader, Reader())
    found = measure_split(predict, reader, torch.device("cpu"))
    assert found.samples == 10 and found.largest == 0
    spread = measure_split(
        lambda x: predict(x) - predict(x).mean() + 0.5, reader, torch.device("cpu")
    )
    assert spread.largest == pytest.approx(0.45)
