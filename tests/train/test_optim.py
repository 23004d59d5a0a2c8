import copy
import itertools

import pytest
import torch
from torch import nn

from pattlite_dist.config import OptimConfig
from pattlite_dist.train.optim import Ema, build_optimizer, lr_factor, parameter_groups


def test_the_rate_rises_then_falls_to_zero() -> None:
    rates = [lr_factor(step, 100, 10, "cosine") for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0)
    assert lr_factor(1000, 100, 10, "cosine") == pytest.approx(0)


def test_a_constant_rate_stays() -> None:
    assert [lr_factor(step, 10, 0, "constant") for step in (0, 5, 20)] == [1, 1, 1]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2))
        self.head = nn.Linear(2, 7)


def test_each_parameter_is_in_one_group_with_its_own_rate_and_decay() -> None:
    net = Net()
    config = OptimConfig(lr=1e-2, backbone_lr_scale=0.1, weight_decay=0.3)
    groups = parameter_groups(net, config)
    of = {id(p): group for group in groups for p in group["params"]}
    assert len(of) == sum(len(g["params"]) for g in groups) == len(list(net.parameters()))
    conv, norm = of[id(net.backbone[0].weight)], of[id(net.backbone[1].weight)]
    assert (conv["lr"], conv["weight_decay"]) == (pytest.approx(1e-3), 0.3)
    assert (norm["lr"], norm["weight_decay"]) == (pytest.approx(1e-3), 0)
    weight, bias = of[id(net.head.weight)], of[id(net.head.bias)]
    assert (weight["lr"], weight["weight_decay"]) == (1e-2, 0.3)
    assert (bias["lr"], bias["weight_decay"]) == (1e-2, 0)


@pytest.mark.parametrize(
    ("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_the_named_optimiser_is_built(name: str, kind: type) -> None:
    config = OptimConfig.model_validate({"name": name})
    assert type(build_optimizer(Net(), config)) is kind


def test_ema_copies_during_warm_up_and_then_averages() -> None:
    ema = Ema(decay=0.9, start_step=2)
    model = nn.Linear(1, 1, bias=False)
    average = torch.optim.swa_utils.AveragedModel(copy.deepcopy(model), **ema._kwargs)
    ema._average_model = average
    expected = 0.0
    for step, value in enumerate((1.0, 2.0, 3.0, 4.0)):
        with torch.no_grad():
            model.weight.fill_(value)
        assert ema.should_update(step_idx=step)
        average.update_parameters(model)
        expected = value if step < 2 else 0.9 * expected + 0.1 * value
        assert average.module.weight.item() == pytest.approx(expected)
    assert not ema.should_update(epoch_idx=1)
