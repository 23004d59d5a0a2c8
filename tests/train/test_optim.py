import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from pattlite_dist.compat.lightning import average_of
from pattlite_dist.config import Config
from pattlite_dist.model.backbones import blocks
from pattlite_dist.model.build import build_model
from pattlite_dist.model.settings import ModelConfig
from pattlite_dist.train.optim import (
    Ema,
    build_optimizer,
    ema_decay,
    lr_factor,
    lr_relative,
    lr_scale,
    parameter_groups,
)
from pattlite_dist.train.settings import OptimConfig


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


def test_an_inverse_time_rate_is_half_after_the_decay_and_a_third_after_twice_that() -> None:
    rates = [lr_factor(step, 1000, 10, "inverse_time", 40) for step in (9, 10, 20, 50, 90)]
    assert rates == [1, 1, pytest.approx(0.8), pytest.approx(1 / 2), pytest.approx(1 / 3)]


def staged(start: int | None, **finetune: object) -> Config:
    return Config.model_validate(
        {
            "optim": {"lr": 1e-3, "schedule": "cosine", "warmup_epochs": 0.5},
            "finetune": {"start_epoch": start, "lr": 1e-5, **finetune},
            "trainer": {"epochs": 6},
        }
    )


def test_each_stage_has_a_peak_and_a_schedule_of_its_own() -> None:
    """Ten steps per epoch: 5 of warm-up, 15 of cosine, then fine-tuning, halved after 2 epochs."""
    config = staged(2, decay_epochs=2)
    expected = {
        0: 0.2, 4: 1, 5: 1, 10: 0.75, 15: 0.25,  # a third and two thirds of half a cosine
        20: 0.01, 25: 0.01 / 1.25, 30: 0.01 / 1.5, 40: 0.01 / 2, 59: 0.01 / 2.95,
    }  # fmt: skip
    rates = {step: lr_relative(step, config, 10) for step in expected}
    assert rates == {step: pytest.approx(rate) for step, rate in expected.items()}
    assert lr_relative(19, config, 10) < 0.02  # the head's cosine has ended by then


def test_fine_tuning_may_fall_as_a_cosine_to_the_end_of_the_run() -> None:
    config = staged(2, schedule="cosine")
    assert lr_relative(20, config, 10) == pytest.approx(0.01)
    assert lr_relative(40, config, 10) == pytest.approx(0.005)
    assert lr_relative(60, config, 10) == pytest.approx(0)


def test_without_stages_the_schedule_runs_over_all_epochs() -> None:
    for step in range(61):
        assert lr_relative(step, staged(None), 10) == lr_factor(step, 60, 5, "cosine")


def test_fine_tuning_from_the_first_step_has_no_head_stage_and_no_warm_up() -> None:
    assert lr_relative(0, staged(0), 10) == pytest.approx(0.01)


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
