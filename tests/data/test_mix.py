from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pattlite_dist.config import Config, parse_config
from pattlite_dist.data.augment import Preprocess, draw
from pattlite_dist.data.mix import Mixing, draw_mixing, mixed, mixes, symmetric_beta
from pattlite_dist.data.module import FERData
from pattlite_dist.data.settings import AugmentConfig
from pattlite_dist.errors import UserError
from pattlite_dist.runtime.world import World
from pattlite_dist.train.loss import loss_of
from tests.data.conftest import ShardSet

SIZE, BATCH, CLASSES = 48, 12, 7
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
BOTH: dict[str, Any] = {"mixup": 0.4, "cutmix": 1.0, "mix_prob": 0.8}


# Draw (42, 7, 1234) for images of 64 px.
GOLDEN_BLEND = [0.81923676, 0, 0, 0]
GOLDEN_BOX = [[0, 0, 0, 0], [0, 0, 0, 0], [0, 3, 52, 61], [33, 3, 44, 14]]


def drawn(n: int, **changes: Any) -> Mixing:
    return draw_mixing(AugmentConfig(**changes), 1, 2, 3, n, slice(0, n), SIZE)


def areas(mixing: Mixing) -> Any:
    x0, y0, x1, y1 = mixing.box.T
    return (x1 - x0) * (y1 - y0)


@given(st.floats(0.05, 20), st.integers(0, 1000))
def test_beta_numbers_have_the_range_mean_and_spread_of_beta(alpha: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    x = symmetric_beta(alpha, *random.random((2, 20_000)))
    assert x.min() >= 0
    assert x.max() <= 1
    assert x.mean() == pytest.approx(0.5, abs=0.02)
    assert x.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.06)
    kurtosis = ((x - 0.5) ** 4).mean() / x.var() ** 2
    assert kurtosis == pytest.approx(3 - 6 / (2 * alpha + 3), rel=0.1)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_beta_numbers_are_distributed_as_numpys(alpha: float) -> None:
    random = np.random.default_rng(5)
    ours = np.sort(symmetric_beta(alpha, *random.random((2, 50_000))))
    theirs = np.sort(random.beta(alpha, alpha, 50_000))
    levels = np.linspace(0.01, 0.99, 99)
    reached, expected = (np.searchsorted(x, levels) / len(x) for x in (ours, theirs))
    np.testing.assert_allclose(reached, expected, atol=0.012)


@pytest.mark.parametrize("alpha", [1e-300, 1e-3, 1e9])
@pytest.mark.parametrize("u", [0.0, 2.0**-53, 1 - 2.0**-53])
@pytest.mark.parametrize("v", [0.0, 0.25, 0.5, 0.75])
def test_beta_numbers_stay_in_range_at_the_edges(alpha: float, u: float, v: float) -> None:
    assert 0 <= symmetric_beta(alpha, np.array([u]), np.array([v]))[0] <= 1


def test_an_image_is_mixed_as_often_as_asked_and_cut_instead_of_blended_as_often() -> None:
    mixing = drawn(4000, mixup=1.0, cutmix=1.0, mix_prob=0.6, mix_switch=0.25)
    blended, cut = mixing.blend > 0, mixing.box.any(1)
    assert not (blended & cut).any()
    assert blended.mean() == pytest.approx(0.6 * 0.75, abs=0.03)
    assert cut.mean() == pytest.approx(0.6 * 0.25, abs=0.03)
    assert (mixing.share[~blended & ~cut] == 0).all()


@pytest.mark.parametrize(("on", "off"), [("mixup", "box"), ("cutmix", "blend")])
def test_one_of_the_two_alone_is_never_the_other(on: str, off: str) -> None:
    mixing = drawn(500, **{on: 0.7, "mix_switch": 0.5})
    assert not getattr(mixing, off).any()
    assert (mixing.share > 0).mean() > 0.95


def test_a_boxs_share_is_exactly_its_part_of_the_pixels_and_it_lies_in_the_image() -> None:
    mixing = drawn(4000, cutmix=1.0)
    assert (mixing.box == np.rint(mixing.box)).all()
    assert mixing.box.min() >= 0
    assert mixing.box.max() <= SIZE
    np.testing.assert_array_equal(mixing.share, (areas(mixing) / SIZE**2).astype(np.float32))
    # Beta(1, 1) is uniform: half of each image, less what is cut off at the borders.
    assert mixing.share.mean() == pytest.approx(0.3, abs=0.03)
    x0, y0, x1, y1 = mixing.box.T
    inside = (x0 > 0) & (y0 > 0) & (x1 < SIZE) & (y1 < SIZE)
    assert (abs((x1 - x0) - (y1 - y0))[inside] <= 1).all()


@pytest.mark.parametrize("world", [1, 2, 3, 4, 12])
def test_a_ranks_mixing_is_its_slice_of_the_global_draw(world: int) -> None:
    config, share = AugmentConfig(**BOTH), BATCH // world
    parts = [
        draw_mixing(config, 5, 6, 7, BATCH, slice(r * share, (r + 1) * share), SIZE)
        for r in range(world)
    ]
    for name, value in vars(draw_mixing(config, 5, 6, 7, BATCH, slice(0, BATCH), SIZE)).items():
        np.testing.assert_array_equal(np.concatenate([vars(p)[name] for p in parts]), value)


def test_golden_mixing() -> None:
    """A later release must continue a run of this one with the same pixels."""
    p = draw_mixing(AugmentConfig(**BOTH), 42, 7, 1234, 4, slice(0, 4), 64)
    np.testing.assert_allclose(p.blend, GOLDEN_BLEND, atol=1e-6)
    np.testing.assert_array_equal(p.box, GOLDEN_BOX)


def rank_data(
    shards: ShardSet, cache: Path, rank: int = 0, world: int = 1, **changes: Any
) -> FERData:
    augment = {"flip": 0.5, "rotation": 15, "contrast": 0.3, "erasing": 0.3}
    run = Config.model_validate(
        {
            "seed": 9,
            "data": {
                "shards": str(shards.folder), "cache": str(cache), "image_size": SIZE,
                **changes.pop("data", {}),
            },
            "augment": {**augment, **BOTH, **changes},
            "trainer": {"global_batch": BATCH, "eval_batch": 5},
        }
    )  # fmt: skip
    who = World("torchrun", rank, world, rank, world) if world > 1 else World()
    data = FERData(run, who, Preprocess(SIZE, MEAN, STD), shards.manifest)
    epochs = run.trainer.epochs
    data.trainer = SimpleNamespace(training=True, max_epochs=epochs)  # type: ignore[assignment]
    return data


def steps(data: FERData, epoch: int = 0) -> list[dict[str, Any]]:
    """What a rank's training steps get."""
    loader = data.train_dataloader()
    loader.set_epoch(epoch)
    cpu = torch.device("cpu")
    return [
        data.on_after_batch_transfer(data.transfer_batch_to_device(b, cpu, 0), 0)  # type: ignore[arg-type]
        for b in loader
    ]


def by_hand(data: FERData, shards: ShardSet, epoch: int, step: int) -> Any:
    """The mixed global batch and its targets, image by image and pixel by pixel."""
    config, plan = data.config.augment, data.plan()
    ids = plan.batch(epoch, step)
    truth = shards.truth["train"]
    whole = slice(0, BATCH)
    parameters = draw(config, data.config.seed, epoch, step, BATCH, whole)
    images = data.preprocess(torch.from_numpy(truth.images[ids]), parameters).numpy()
    mixing = draw_mixing(config, data.config.seed, epoch, step, BATCH, whole, SIZE)
    pixels, targets = [], []
    for i in range(BATCH):
        j = (i + 1) % BATCH
        lam = np.float32(1) - mixing.blend[i]
        image = images[i] * lam + images[j] * mixing.blend[i]
        x0, y0, x1, y1 = mixing.box[i].astype(int)
        image[:, y0:y1, x0:x1] = images[j, :, y0:y1, x0:x1]
        if x1 > x0:
            lam = np.float32(1 - (x1 - x0) * (y1 - y0) / SIZE**2)
        target = np.zeros(CLASSES, np.float32)
        target[truth.labels[ids[i]]] += lam
        target[truth.labels[ids[j]]] += 1 - lam
        pixels.append(image)
        targets.append(target)
    return torch.from_numpy(np.stack(pixels)), torch.from_numpy(np.stack(targets))


@pytest.mark.parametrize("resident", [False, True])
def test_every_step_is_the_same_mixed_global_batch_on_any_number_of_ranks(
    shard_set: ShardSet, cache: Path, resident: bool
) -> None:
    """With the last step, which is padded: 100 samples in batches of 12."""
    alone = rank_data(shard_set, cache)
    wholes = steps(alone, 1)
    assert len(wholes) == 9
    for world in (1, 2, 3, 4):
        ranks = [
            steps(rank_data(shard_set, cache, r, world, data={"resident": resident}), 1)
            for r in range(world)
        ]
        for step, parts in enumerate(zip(*ranks, strict=True)):
            pixels, targets = by_hand(alone, shard_set, 1, step)
            assert torch.equal(torch.cat([part["image"] for part in parts]), pixels)
            got = torch.cat([part["target"] for part in parts])
            torch.testing.assert_close(got, targets, atol=1e-6, rtol=0)
            ids = alone.plan().batch(1, step)
            for name in ("target", "label", "counts", "weight"):
                assert torch.equal(torch.cat([part[name] for part in parts]), wholes[step][name])
            assert torch.equal(torch.cat([part["id"] for part in parts]), torch.from_numpy(ids))
            assert sum(part["counted"] for part in parts) == alone.plan().counting(step)


def test_a_resumed_epoch_continues_with_the_same_mixed_batches(
    shard_set: ShardSet, cache: Path
) -> None:
    whole = steps(rank_data(shard_set, cache))
    data = rank_data(shard_set, cache)
    loader = data.train_dataloader()
    loader.load_state_dict({**loader.state_dict(), "consumed": 5 * BATCH})
    batch = data.on_after_batch_transfer(next(iter(loader)), 0)
    assert torch.equal(batch["image"], whole[5]["image"])
    assert torch.equal(batch["target"], whole[5]["target"])


def test_the_label_that_accuracy_counts_is_the_one_with_the_larger_share(
    shard_set: ShardSet, cache: Path
) -> None:
    for batch in steps(rank_data(shard_set, cache)):
        largest = batch["target"].amax(1)
        counted = batch["target"].gather(1, batch["label"][:, None])[:, 0]
        torch.testing.assert_close(counted, largest)


def test_mixing_off_adds_no_place_and_evaluation_is_never_mixed(
    shard_set: ShardSet, cache: Path
) -> None:
    off = rank_data(shard_set, cache, mixup=0, cutmix=0)
    (batch, *_) = steps(off)
    assert "target" not in batch
    on = rank_data(shard_set, cache)
    assert not mixes(off.config.augment)
    assert mixes(on.config.augment)
    on.trainer.training = False  # type: ignore[union-attr]
    val = next(iter(on.val_dataloader()))
    ready = on.on_after_batch_transfer(val, 0)
    assert torch.equal(ready["image"], on.preprocess(val["image"]))
    assert "target" not in ready


def test_an_image_whose_partner_is_of_a_skipped_shard_stays_as_it_is(
    shard_set: ShardSet, copied: Path, tmp_path: Path
) -> None:
    (copied / "train-000001.tar").write_bytes(b"")
    broken = ShardSet(copied, shard_set.manifest, shard_set.truth)
    settings = {"bad_shards": "skip"}
    data, good = (
        rank_data(shards, tmp_path / name, data=settings, mix_prob=1)
        for name, shards in (("broken", broken), ("good", shard_set))
    )
    checked = 0
    for step, (got, expected) in enumerate(zip(steps(data), steps(good), strict=True)):
        ids = data.plan().batch(0, step)
        lost = (ids >= 16) & (ids < 32)
        for i in np.flatnonzero(~lost):
            if not lost[(i + 1) % BATCH]:
                assert torch.equal(got["image"][i], expected["image"][i])
                assert torch.equal(got["target"][i], expected["target"][i])
                continue
            checked += 1
            parameters = draw(data.config.augment, 9, 0, step, BATCH, slice(i, i + 1))
            own = torch.from_numpy(shard_set.truth["train"].images[ids[i : i + 1]])
            assert torch.equal(got["image"][i], data.preprocess(own, parameters)[0])
            assert got["target"][i, shard_set.truth["train"].labels[ids[i]]] == 1
    assert checked > 5


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("targets", ["labels", "votes"])
def test_the_loss_is_the_two_cross_entropies_by_their_shares(
    targets: str, smoothing: float
) -> None:
    random = torch.Generator().manual_seed(3)
    n = 5
    votes = torch.rand(n + 1, CLASSES, generator=random)
    batch = {
        "image": torch.rand(n + 1, 3, SIZE, SIZE, generator=random),
        "label": torch.randint(CLASSES, (n + 1,), generator=random),
        "target": votes / votes.sum(1, keepdim=True),
        "weight": torch.tensor([1.0, 1, 0, 1, 1, 0]),
        "good": torch.ones(n + 1, dtype=torch.bool),
    }
    mixing = draw_mixing(AugmentConfig(**BOTH), 0, 0, 0, n, slice(0, n), SIZE)
    config = Config.model_validate(
        {
            "data": {"targets": targets},
            "augment": BOTH,
            "optim": {"label_smoothing": smoothing},
        }
    )
    ready = mixed(batch, mixing, CLASSES, targets == "votes")
    logits = torch.randn(n, CLASSES, generator=random)
    goal = batch["label" if targets == "labels" else "target"]
    both = [
        torch.nn.functional.cross_entropy(logits, g, reduction="none", label_smoothing=smoothing)
        for g in (goal[:-1], goal[1:])
    ]
    share = torch.from_numpy(mixing.share)
    expected = ((both[0] * (1 - share) + both[1] * share) * batch["weight"][:-1]).mean()
    torch.testing.assert_close(loss_of(logits, ready, config), expected)


def test_a_batch_of_one_has_no_partner() -> None:
    with pytest.raises(UserError, match=r"augment\.mixup .* at least 2"):
        parse_config({"augment": {"mixup": 0.2}, "trainer": {"global_batch": 1}}, "here")
