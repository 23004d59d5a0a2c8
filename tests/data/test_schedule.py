from pathlib import Path
from typing import Any

import pytest
import torch

from pattlite_dist.config import Config, parse_config
from pattlite_dist.data.augment import Preprocess
from pattlite_dist.data.mix import mixes
from pattlite_dist.data.schedule import augment_at, calmed, side_at
from pattlite_dist.data.settings import AugmentConfig, DataConfig
from pattlite_dist.errors import UserError
from pattlite_dist.model.build import build_model
from pattlite_dist.train.trainer import build_preprocess
from tests.data.conftest import ShardSet
from tests.data.test_mix import rank_data, steps

STRONG = AugmentConfig(
    flip=0.5, rotation=20, shift=0.1, scale=0.2, brightness=0.2, contrast=0.4, erasing=0.5,
    crop=(0.4, 1), crop_aspect=(0.25, 4), mixup=0.2, cutmix=1, calm_epochs=3, calm_share=0.5,
)  # fmt: skip


def test_the_last_epochs_are_calm_however_many_there_are() -> None:
    for epochs in (4, 10):
        for epoch in range(epochs):
            expected = STRONG if epoch < epochs - 3 else calmed(STRONG)
            assert augment_at(STRONG, epoch, epochs) == expected
    plain = AugmentConfig()
    assert all(augment_at(plain, epoch, 4) is plain for epoch in range(4))


def test_the_last_epochs_are_those_of_a_shortened_run(shard_set: ShardSet, cache: Path) -> None:
    data = rank_data(shard_set, cache, mixup=1.0, calm_epochs=2)
    batch = next(iter(data.train_dataloader()))
    early: Any = {**batch, "epoch": data.config.trainer.epochs - 3}
    whole = data.prepare(early, True)
    for epochs, same in ((early["epoch"] + 2, False), (early["epoch"] + 3, True)):
        data.trainer.max_epochs = epochs  # type: ignore[misc]
        assert torch.equal(data.prepare(early, True), whole) == same


def test_a_run_that_may_be_shortened_has_one_image_size() -> None:
    sizes = {"image_size": 64, "image_sizes": [[0, 48], [2, 64]]}
    with pytest.raises(UserError, match=r"data\.image_sizes names; leave one of them out"):
        parse_config({"trainer": {"max_minutes": 5}, "data": sizes}, "it")


def test_a_calm_epoch_mixes_and_erases_nothing_and_has_its_share_of_the_rest() -> None:
    calm = calmed(STRONG)
    assert not mixes(calm)
    assert calm.erasing == 0
    halves = {"rotation": 10, "shift": 0.05, "scale": 0.1, "brightness": 0.1, "contrast": 0.2}
    assert {name: getattr(calm, name) for name in halves} == pytest.approx(halves)
    assert calm.crop == pytest.approx((0.7, 1))
    assert calm.crop_aspect == pytest.approx((0.5, 2))
    assert calm.flip == 0.5


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_share_that_is_left_may_be_nothing_or_everything(share: float) -> None:
    calm = calmed(STRONG.model_copy(update={"calm_share": share}))
    assert calm.rotation == 20 * share
    assert calm.crop == pytest.approx((0.4, 1) if share else (1, 1))
    assert calmed(AugmentConfig(crop=None)).crop is None


def test_the_side_is_that_of_the_last_pair_that_has_begun() -> None:
    data = DataConfig(image_size=96, image_sizes=((0, 48), (2, 64), (5, 96)))
    assert [side_at(data, epoch) for epoch in range(7)] == [48, 48, 64, 64, 64, 96, 96]
    assert side_at(DataConfig(image_size=80), 3) == 80


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ([[1, 64]], "do not begin at 0 and rise"),
        ([[0, 48], [0, 64]], "do not begin at 0 and rise"),
        ([[0, 48], [5, 56], [3, 64]], "do not begin at 0 and rise"),
        ([[0, 32], [5, 64]], "not from 48 to 224"),
        ([[0, 48]], "the last side in image_sizes, 48, is not image_size 64"),
    ],
)
def test_sizes_that_are_not_in_order_are_an_error(sizes: list[list[int]], told: str) -> None:
    with pytest.raises(UserError, match=rf"^here: data: .*{told}"):
        parse_config({"data": {"image_size": 64, "image_sizes": sizes}}, "here")


def test_training_sees_each_epochs_side_and_strength_and_validation_neither(
    shard_set: ShardSet, cache: Path
) -> None:
    sizes = {"image_size": 64, "image_sizes": [[0, 48], [2, 64]]}
    changes: dict[str, Any] = {"mix_prob": 1, "calm_epochs": 2}
    data = rank_data(shard_set, cache, data=sizes, **changes)
    data.trainer.max_epochs = 4  # type: ignore[misc, union-attr]
    data.preprocess = Preprocess(64, (0.4,) * 3, (0.2,) * 3, [48, 64])
    for epoch, (side, mixing) in enumerate([(48, True), (48, True), (64, False), (64, False)]):
        for batch in steps(data, epoch):
            assert batch["image"].shape == (12, 3, side, side)
            assert (batch["target"].amax(1) < 1).any() == mixing
    data.trainer.training = False  # type: ignore[union-attr]
    val = next(iter(data.val_dataloader()))
    assert data.on_after_batch_transfer(val, 0)["image"].shape[-1] == 64


@pytest.mark.parametrize("name", ["pattlite", "mobilenetv2-vit"])
def test_one_set_of_weights_is_trained_at_every_size(name: str) -> None:
    config = Config.model_validate(
        {
            "data": {"image_size": 96, "image_sizes": [[0, 48], [1, 64], [2, 96]]},
            "model": {"name": name, "dropout": 0},
        }
    )
    torch.manual_seed(0)
    model = build_model(config.model, 96, 7)
    names = list(model.state_dict())
    preprocess = build_preprocess(config, model)
    pixels = torch.randint(256, (2, 1, 48, 48), dtype=torch.uint8)
    for side in (48, 64, 96):
        logits = model(preprocess(pixels, None, side))
        assert logits.shape == (2, 7)
        logits.sum().backward()
        assert all(p.grad is not None for p in model.parameters())
    assert list(model.state_dict()) == names
