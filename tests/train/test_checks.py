from typing import Any

import pytest

from pattlite_dist.config import Config
from pattlite_dist.train.checks import check_recipe, remarks


def check(**tree: Any) -> list[str]:
    return check_recipe(Config.model_validate(tree))


def test_the_defaults_are_sound() -> None:
    assert check() == []


@pytest.mark.parametrize("start", [0, 1, 15])
def test_a_backbone_that_is_frozen_at_random_has_to_be_meant(start: int) -> None:
    staged = {"finetune": {"start_epoch": start}, "optim": {"warmup_epochs": 0}}
    (line,) = check(**staged)
    assert "without model.weights it is random" in line and "model.weights=none" in line
    for weights in ("none", "imagenet", "v1.pt"):
        assert check(**staged, model={"weights": weights}) == []


@pytest.mark.parametrize(
    ("warmup", "start", "epochs", "told"),
    [
        (5, None, 5, "optim.warmup_epochs 5 is not below trainer.epochs 5"),
        (1, None, 1, "optim.warmup_epochs 1 is not below trainer.epochs 1"),
        (7.5, None, 5, "optim.warmup_epochs 7.5 is not below trainer.epochs 5"),
        (2, 2, 9, "optim.warmup_epochs 2 is not below finetune.start_epoch 2"),
        (0.99, None, 1, None),
        (4, None, 5, None),
        (1, 2, 9, None),
        (9, 0, 9, None),  # without a first stage, nothing warms up
        (0, None, 1, None),
    ],
)
def test_a_warm_up_has_to_end_before_its_stage(
    warmup: float, start: int | None, epochs: int, told: str | None
) -> None:
    lines = check(
        optim={"warmup_epochs": warmup},
        finetune={"start_epoch": start},
        trainer={"epochs": epochs},
        model={"weights": "none"},
    )
    assert [line.partition(", so")[0] for line in lines] == ([] if told is None else [told])


@pytest.mark.parametrize(("calm", "epochs", "sound"), [(9, 10, True), (10, 10, False)])
def test_some_epochs_have_to_be_augmented_in_full(calm: int, epochs: int, sound: bool) -> None:
    lines = check(augment={"calm_epochs": calm}, trainer={"epochs": epochs})
    told = [f"augment.calm_epochs {calm} is not below trainer.epochs {epochs}"]
    assert [line.partition(", so")[0] for line in lines] == ([] if sound else told)


@pytest.mark.parametrize(("epoch", "epochs", "sound"), [(9, 10, True), (10, 10, False)])
def test_the_last_image_size_has_to_be_reached(epoch: int, epochs: int, sound: bool) -> None:
    sizes = {"image_size": 64, "image_sizes": [[0, 48], [epoch, 64]]}
    lines = check(data=sizes, trainer={"epochs": epochs})
    told = f"data.image_size at epoch {epoch}, which trainer.epochs {epochs} does not reach"
    assert [told in line for line in lines] == ([] if sound else [True])
    assert check(data={"image_size": 64, "image_sizes": [[0, 64]]}) == []


@pytest.mark.parametrize("weights", [None, "none", "v1.pt"])
def test_blocks_that_are_frozen_at_random_have_to_be_meant(weights: str | None) -> None:
    lines = check(model={"freeze": 1, "weights": weights})
    assert [line.partition(",")[0] for line in lines] == (
        ["model.freeze freezes the backbone"] if weights is None else []
    )
    assert not lines or "model.freeze=0" in lines[0]


def told(steps: int = 100, **tree: Any) -> list[str]:
    return remarks(Config.model_validate(tree), steps)


SGD = {"name": "sgd", "weight_decay": 5e-4}


@pytest.mark.parametrize(
    ("tree", "line"),
    [
        ({"optim": {"betas": [0.8, 0.99]}}, None),
        ({"optim": {**SGD, "momentum": 0.8, "nesterov": False}}, None),
        (
            {"optim": {**SGD, "betas": [0.8, 0.99], "eps": 1e-6}},
            "without effect with optim.name sgd: optim.betas, optim.eps",
        ),
        (
            {"optim": {"name": "adamw", "momentum": 0.8, "nesterov": False}},
            "without effect with optim.name adamw: optim.momentum, optim.nesterov",
        ),
        ({"optim": {"schedule": "inverse_time", "decay_epochs": 3}}, None),
        (
            {"optim": {"decay_epochs": 3}},
            "without effect with optim.schedule cosine: optim.decay_epochs",
        ),
        (
            {"finetune": {"start_epoch": 2, "schedule": "constant", "decay_epochs": 3}},
            "without effect with finetune.schedule constant: finetune.decay_epochs",
        ),
        ({"finetune": {"start_epoch": 2, "unfreeze": 3, "decay_epochs": 3}}, None),
        (
            {"finetune": {"unfreeze": 3, "schedule": "constant"}},
            "without effect without finetune.start_epoch: finetune.unfreeze, finetune.schedule",
        ),
        ({"optim": {"lr_rule": "sqrt", "reference_batch": 32}}, None),
        (
            {"optim": {"reference_batch": 32}},
            "without effect with optim.lr_rule none: optim.reference_batch",
        ),
        ({"optim": {**SGD, "weight_decay": 0.05}}, "optim.weight_decay 0.05 is much for sgd"),
        ({"optim": {"name": "adam"}}, "optim.weight_decay 0.05 is much for adam"),
        ({"optim": {**SGD, "lr": 0.1}}, None),
        ({"optim": {"lr": 0.1}}, "a learning rate of 0.1 is much for adamw"),
        (
            {"optim": {"lr": 0.01, "lr_rule": "linear"}, "trainer": {"global_batch": 256}},
            "a learning rate of 0.04 is much for adamw",
        ),
        ({"optim": {"backbone_lr_scale": 0}}, "optim.backbone_lr_scale 0 trains no weight"),
        ({"optim": {"backbone_lr_scale": 0}, "model": {"freeze": 14}}, None),
    ],
)
def test_what_is_probably_not_meant_is_told(tree: dict[str, Any], line: str | None) -> None:
    lines = told(**tree)
    if line is None:
        assert lines == []
    else:
        assert len(lines) == 1
        assert lines[0].startswith(line)


@pytest.mark.parametrize("rule", ["none", "sqrt"])
def test_an_average_that_is_longer_than_the_run_is_told_with_one_that_is_not(rule: str) -> None:
    run = {"trainer": {"epochs": 11}, "optim": {"ema": 0.9999, "lr_rule": rule}}  # 1,000 averaged
    (line,) = told(**run)
    left = {"none": 0.9999**1000, "sqrt": 0.9999**2000}[rule]  # global_batch is twice the reference
    assert f"1,000 steps will still be {left:.0%}" in line
    advised = float(line.rpartition("at most ")[2].split()[0])
    for ema, lines in ((advised - 1e-4, 0), (advised + 1e-4, 1)):
        assert len(told(**{**run, "optim": {**run["optim"], "ema": ema}})) == lines
