from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from pattlite_dist.compat.lightning import average_of
from pattlite_dist.model.backbones import blocks
from pattlite_dist.model.build import build_model
from pattlite_dist.model.settings import ModelConfig
from pattlite_dist.train.optim import (
    Ema,
    build_optimizer,
    parameter_groups,
)
from pattlite_dist.train.rates import ema_decay, lr_scale
from pattlite_dist.train.settings import OptimConfig


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


@pytest.mark.parametrize("decayed", [False, True])
def test_positions_are_decayed_only_in_runs_of_earlier_versions(decayed: bool) -> None:
    net = build_model(ModelConfig(cut=7, width=16, heads=2), 48, 7)
    config = OptimConfig(weight_decay=0.3, decay_positions=decayed)
    of = {id(p): group["weight_decay"] for group in parameter_groups(net, config)
          for p in group["params"]}  # fmt: skip
    vectors = {name for name, p in net.named_parameters() if not of[id(p)]}
    assert vectors ^ {name for name, p in net.named_parameters() if p.ndim == 1} == (
        set() if decayed else {"patches.position"}
    )


@pytest.mark.parametrize(
    ("name", "kind", "keys"),
    [
        ("adam", torch.optim.Adam, {"betas": (0.9, 0.999), "eps": 1e-8}),
        ("adamw", torch.optim.AdamW, {"betas": (0.9, 0.98), "eps": 1e-6}),
        ("sgd", torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        ("sgd", torch.optim.SGD, {"momentum": 0.8, "nesterov": False}),
        ("sgd", torch.optim.SGD, {"momentum": 0}),  # of which Nesterov's makes none
    ],
)
def test_the_named_optimiser_is_built(name: str, kind: type, keys: dict[str, Any]) -> None:
    config = OptimConfig.model_validate({"name": name, **keys})
    optimizer = build_optimizer(Net(), config)
    assert type(optimizer) is kind
    assert optimizer.defaults.items() >= {**keys, "fused": True}.items()


def test_betas_are_decays() -> None:
    with pytest.raises(ValueError, match=r"betas 0.9, 1.0 are not both in \[0, 1\)"):
        OptimConfig(betas=(0.9, 1))


def gradients(net: nn.Module, step: int) -> None:
    torch.manual_seed(step)
    for parameter in net.parameters():
        parameter.grad = torch.randn_like(parameter)


@pytest.mark.parametrize("momentum", [0.9, 0])
def test_sgd_takes_the_steps_of_its_definition_and_continues_with_its_momentum(
    momentum: float,
) -> None:
    """Nesterov's momentum as in Sutskever et al. (2013), with weight decay in the gradient."""
    config = OptimConfig(name="sgd", lr=0.1, momentum=momentum, weight_decay=0.01)
    net = Net().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = build_optimizer(net, config)
    expected = {name: p.detach().clone() for name, p in net.named_parameters()}
    velocity = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    for step in range(4):
        if step == 2:  # the run is stopped and continued
            state = optimizer.state_dict()
            optimizer = build_optimizer(net, config)
            optimizer.load_state_dict(state)
        gradients(net, step)
        optimizer.step()
        for name, p in net.named_parameters():
            assert p.grad is not None
            slope = p.grad + 0.01 * expected[name] * (p.ndim > 1)
            velocity[name] = momentum * velocity[name] + slope
            expected[name] -= 0.1 * (slope + momentum * velocity[name])
            torch.testing.assert_close(p.detach(), expected[name])


@pytest.mark.parametrize(("name", "number"), [("pattlite", 10), ("mobilenetv2-vit", 7)])
def test_with_layer_decay_each_block_is_slower_than_what_follows_it(name: str, number: int) -> None:
    content = {"name": name, "cut": 7, "width": 16, "heads": 2}
    net = build_model(ModelConfig.model_validate(content), 48, 7)
    config = OptimConfig(lr=1e-2, layer_decay=0.5, backbone_lr_scale=0.1)
    of = {id(p): (group["lr"], group["weight_decay"]) for group in parameter_groups(net, config, 4)
          for p in group["params"]}  # fmt: skip
    parts = blocks(net.backbone)
    assert len(parts) == number
    for i, part in enumerate(parts):
        for p in part.parameters():
            assert of[id(p)] == (pytest.approx(4e-3 * 0.5 ** (number - i)), 0.05 * (p.ndim > 1))
    head = [p for key, p in net.named_parameters() if not key.startswith("backbone.")]
    assert {of[id(p)][0] for p in head} == {4e-2}
    assert len(of) == len(list(net.parameters()))
    assert len(parameter_groups(net, config.model_copy(update={"layer_decay": 1.0}))) == 4


def test_ema_copies_during_warm_up_and_then_averages() -> None:
    ema = Ema(decay=0.9, start_step=2)
    module = pl.LightningModule()
    module.layer = nn.Linear(1, 1, bias=False)
    module.norm = nn.BatchNorm1d(1)
    trainer: Any = SimpleNamespace(global_step=0, current_epoch=0)
    ema.setup(trainer, module, "fit")
    average = average_of(ema)
    assert average is not None
    expected = 0.0
    for step, value in enumerate((1.0, 2.0, 3.0, 4.0)):
        with torch.no_grad():
            for tensor in (module.layer.weight, module.norm.running_mean):
                tensor.fill_(value)
            module.norm.num_batches_tracked.fill_(step)
        trainer.global_step = step + 1
        for _ in range(2):  # a second time in the same step changes nothing
            ema.on_train_batch_end(trainer, module, None, None, step)
        expected = value if step < 2 else 0.9 * expected + 0.1 * value
        assert average.layer.weight.item() == pytest.approx(expected)
        assert average.norm.running_mean.item() == pytest.approx(expected)
        assert average.norm.num_batches_tracked.item() == step
    ema.on_train_epoch_end(trainer, module)
    assert average.layer.weight.item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("rule", "scale", "decay"), [("none", 1, 0.9), ("sqrt", 2, 0.9**4), ("linear", 4, 0.9**4)]
)
def test_a_rule_scales_the_rate_and_keeps_the_averages_span_in_samples(
    rule: str, scale: float, decay: float
) -> None:
    config = OptimConfig.model_validate({"lr_rule": rule, "reference_batch": 64, "ema": 0.9})
    assert lr_scale(config, 256) == pytest.approx(scale)
    assert ema_decay(config, 256) == pytest.approx(decay)
    assert lr_scale(config, 64) == 1
    assert ema_decay(config, 64) == 0.9
    optimizer = build_optimizer(Net(), config, scale)
    assert {group["lr"] for group in optimizer.param_groups} == {config.lr * scale}
