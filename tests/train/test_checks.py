from typing import Any

import pytest

from pattlite_dist.config import Config
from pattlite_dist.train.checks import check_recipe


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
