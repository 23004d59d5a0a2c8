import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from pattlite_dist.config import Config
from pattlite_dist.data.augment import Parameters, Preprocess, draw
from pattlite_dist.data.module import FERData
from pattlite_dist.data.settings import AugmentConfig
from pattlite_dist.runtime.world import World
from tests.data.conftest import ShardSet

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
OFF: dict[str, Any] = {
    "flip": 0, "rotation": 0, "shift": 0, "scale": 0, "brightness": 0, "contrast": 0, "erasing": 0,
}  # fmt: skip
EVERYTHING: dict[str, Any] = {
    "flip": 0.5, "rotation": 20, "shift": 0.1, "scale": 0.2, "brightness": 0.2, "contrast": 0.3,
    "erasing": 0.5,
}  # fmt: skip


def config(**changes: Any) -> AugmentConfig:
    return AugmentConfig.model_validate({**OFF, **changes})


def parameters(n: int, step: int = 0, **changes: Any) -> Parameters:
    return draw(config(**changes), 1, 2, step, n, slice(0, n))


def images(n: int, *shape: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=random)


def plain(size: int) -> Preprocess:
    """Without normalisation, so that grey levels can be read off."""
    return Preprocess(size, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def still(n: int = 1, **changes: Any) -> Parameters:
    """Parameters that change nothing, except those given."""
    nothing = Parameters(
        affine=np.tile(np.eye(2, dtype=np.float32), (n, 1, 1)),
        shift=np.zeros((n, 2), np.float32),
        contrast=np.ones(n, np.float32),
        brightness=np.zeros(n, np.float32),
        box=np.zeros((n, 4), np.float32),
    )
    arrays = {name: np.array(value, np.float32) for name, value in changes.items()}
    return dataclasses.replace(nothing, **arrays)


def turn(degrees: float) -> list[list[list[float]]]:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [[[cos, -sin], [sin, cos]]]


# Draw (42, 7, 1234), image 1 of 4, everything switched on.
GOLDEN = [
    -1.0383173, -0.1378456, -0.1378456, 1.0383173, -0.0416845, -0.0781995, 1.2267619, -0.0751821,
    0.1693804, 0.3142267, 0.5739405, 0.7667341,
]  # fmt: skip
SHAPES = [(1, 48, 48), (3, 48, 48), (1, 40, 60), (3, 96, 80), (1, 100, 70), (1, 30, 150)]


@pytest.mark.parametrize("size", [48, 64])
@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_switched_on_is_the_plain_resize(shape: tuple[int, ...], size: int) -> None:
    x = images(5, *shape)
    preprocess = plain(size)  # grey levels in 0-1: a deviation would divide the tolerance
    got = preprocess(x, parameters(5))
    assert got.shape == (5, 3, size, size)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, preprocess(x), atol=1e-5, rtol=0)
    torch.testing.assert_close(preprocess(x, still(5)), preprocess(x), atol=1e-5, rtol=0)


def test_images_of_the_right_size_are_only_normalised() -> None:
    x = images(4, 1, 48, 48)
    got = Preprocess(48, MEAN, STD)(x)
    for channel in range(3):
        expected = (x[:, 0].double() / 255 - MEAN[channel]) / STD[channel]
        torch.testing.assert_close(got[:, channel].double(), expected, atol=1e-5, rtol=0)


def test_a_grey_image_gets_three_channels_and_colour_keeps_its_own() -> None:
    grey = images(2, 1, 48, 48)
    torch.testing.assert_close(
        Preprocess(64, MEAN, STD)(grey), Preprocess(64, MEAN, STD)(grey.expand(-1, 3, -1, -1))
    )
    assert torch.equal(*(plain(64)(grey)[:, c] for c in (0, 2)))
    colour = torch.zeros(1, 3, 48, 48, dtype=torch.uint8)
    colour[:, 1] = 255
    for p in (None, still()):
        out = plain(64)(colour, p)
        assert out[0].amin((1, 2)).tolist() == [0, 1, 0]
        assert out[0].amax((1, 2)).tolist() == [0, 1, 0]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_certain_flip_mirrors_the_resized_image(shape: tuple[int, ...]) -> None:
    x = images(5, *shape)
    preprocess = plain(64)
    got = preprocess(x, parameters(5, flip=1))
    torch.testing.assert_close(got, preprocess(x).flip(-1), atol=1e-5, rtol=0)


def test_a_flip_comes_as_often_as_asked() -> None:
    flips = np.linalg.det(parameters(4000, flip=0.3).affine) < 0
    assert flips.mean() == pytest.approx(0.3, abs=0.03)


def test_a_quarter_turn_turns_the_image() -> None:
    x = images(2, 3, 48, 48)
    got = plain(48)(x, still(2, affine=turn(90) * 2))
    torch.testing.assert_close(got, plain(48)(x).rot90(1, (2, 3)), atol=1e-4, rtol=0)


def test_a_turn_moves_a_bright_corner_the_right_way() -> None:
    x = torch.zeros(1, 1, 64, 64, dtype=torch.uint8)
    x[..., 12:16, 12:16] = 255  # 18 above and to the left of the centre
    out = plain(64)(x, still(affine=turn(30)))[0, 0]
    places = torch.arange(64) + 0.5 - 32
    weight = out / out.sum()
    place = torch.tensor([(weight.sum(0) * places).sum(), (weight.sum(1) * places).sum()])
    cos, sin = math.cos(math.radians(30)), math.sin(math.radians(30))
    # `affine` maps from output to input, so the corner moves the other way; and rows grow
    # downwards, so that is anticlockwise, down the left side.
    expected = torch.tensor([-18 * cos + -18 * sin, 18 * sin - 18 * cos])
    torch.testing.assert_close(place, expected, atol=0.1, rtol=0)


@pytest.mark.parametrize("shape", [(48, 48), (40, 80), (72, 30), (100, 200), (220, 90), (60, 150)])
@pytest.mark.parametrize("degrees", [33.0, 90.0, 180.0])
def test_a_turn_keeps_the_aspect(shape: tuple[int, int], degrees: float) -> None:
    """A round spot in the centre of the image looks the same at any rotation."""
    height, width = shape
    y, x = (torch.arange(n) + 0.5 - n / 2 for n in shape)
    spot = torch.exp(-(y[:, None] ** 2 + x[None] ** 2) / (2 * (min(height, width) / 8) ** 2))
    image = (spot * 255).round().to(torch.uint8)[None, None]
    turned = plain(64)(image, still(affine=turn(degrees)))
    torch.testing.assert_close(turned, plain(64)(image), atol=0.03, rtol=0)


def test_drawn_turns_stay_within_bounds_on_both_sides() -> None:
    affine = parameters(2000, rotation=12).affine
    angles = np.rad2deg(np.arctan2(affine[:, 1, 0], affine[:, 0, 0]))
    assert -12 <= angles.min() < -11.5
    assert 11.5 < angles.max() <= 12
    np.testing.assert_allclose(np.linalg.det(affine), 1, atol=1e-5)


def test_drawn_zooms_stay_within_bounds_and_keep_the_aspect() -> None:
    affine = parameters(2000, scale=0.25, rotation=180).affine
    zoom = 1 / np.sqrt(np.linalg.det(affine))
    assert 0.75 - 1e-5 <= zoom.min() < 0.77
    assert 1.23 < zoom.max() <= 1.25 + 1e-5
    square = np.einsum("nij,nik->njk", affine, affine) * (zoom**2)[:, None, None]
    np.testing.assert_allclose(square, np.tile(np.eye(2), (2000, 1, 1)), atol=1e-5)


def test_a_zoom_above_one_enlarges() -> None:
    x = torch.zeros(1, 1, 64, 64, dtype=torch.uint8)
    x[..., 16:48, 16:48] = 255
    out = plain(64)(x, still(affine=[[[1 / 1.5, 0], [0, 1 / 1.5]]]))[0, 0]
    expected = torch.zeros(64, 64)
    expected[8:56, 8:56] = 1  # 32 * 1.5 = 48
    torch.testing.assert_close(out, expected, atol=0.51, rtol=0)
    assert out.sum().item() == pytest.approx(48 * 48, rel=0.02)


def test_drawn_shifts_stay_within_bounds_in_both_directions() -> None:
    shift = parameters(2000, shift=0.1).shift
    assert (shift >= -0.1).all()
    assert (shift <= 0.1).all()
    assert (shift.min(0) < -0.095).all()
    assert (shift.max(0) > 0.095).all()
    assert abs(np.corrcoef(shift.T)[0, 1]) < 0.1


@pytest.mark.parametrize("shape", [(48, 48), (24, 96)])
def test_a_shift_is_a_fraction_of_the_width_and_of_the_height(shape: tuple[int, int]) -> None:
    x = images(1, 1, *shape)
    plain_image = plain(48)(x)
    out = plain(48)(x, still(shift=[[6 / 48, -3 / 48]]))
    torch.testing.assert_close(
        out[..., 3 + 2 :, : 42 - 2], plain_image[..., 2:45, 6:46], atol=1e-4, rtol=0
    )
    assert out[..., :1, :].abs().max() == 0  # what comes in from outside is black
    assert out[..., -4:].abs().max() == 0


def seen(p: Parameters) -> tuple[Any, Any]:
    """Width and height of what is seen of an image that is not turned, and its centre."""
    assert not p.affine[:, 0, 1].any()
    assert not p.affine[:, 1, 0].any()
    return np.stack([p.affine[:, 0, 0], p.affine[:, 1, 1]], 1), p.shift + 0.5


def test_drawn_crops_have_the_configured_area_and_aspect_and_lie_in_the_image() -> None:
    sides, centre = seen(parameters(4000, crop=(0.3, 0.9), crop_aspect=(0.5, 2)))
    assert (centre - sides / 2).min() >= -1e-6
    assert (centre + sides / 2).max() <= 1 + 1e-6
    area, aspect = sides.prod(1), sides[:, 0] / sides[:, 1]
    assert 0.3 - 1e-6 <= area.min() < 0.31
    assert 0.89 < area.max() <= 0.9 + 1e-6
    assert 0.5 - 1e-6 <= aspect.min() < 0.55
    assert 1.8 < aspect.max() <= 2 + 1e-6
    assert area.mean() == pytest.approx(0.6, abs=0.01)
    assert np.log(aspect).mean() == pytest.approx(0, abs=0.02)
    movable = (sides < 0.95).all(1)
    share = (centre - sides / 2)[movable] / (1 - sides[movable])  # uniform over where it fits
    assert share.mean() == pytest.approx(0.5, abs=0.02)
    assert share.std() == pytest.approx(12**-0.5, abs=0.01)


@pytest.mark.parametrize("shape", [(48, 48), (24, 48)])
def test_a_crop_is_that_part_of_the_image_enlarged(shape: tuple[int, int]) -> None:
    x = images(1, 1, *shape)
    height, width = shape
    # From 1/4 to 3/4 of the width and the upper half of the height.
    got = plain(48)(x, still(affine=[[[0.5, 0], [0, 0.5]]], shift=[[0, -0.25]]))
    part = x[..., : height // 2, width // 4 : 3 * width // 4]
    # At the edges, what lies beyond the crop is interpolated with.
    torch.testing.assert_close(
        got[..., 2:-2, 2:-2], plain(48)(part)[..., 2:-2, 2:-2], atol=1e-4, rtol=0
    )


def test_a_crop_changes_no_other_draw_and_folds_into_the_same_map() -> None:
    without, cropped = (parameters(50, **EVERYTHING, **more) for more in ({}, {"crop": (0.5, 1)}))
    alone, _ = seen(parameters(50, crop=(0.5, 1)))
    np.testing.assert_allclose(cropped.affine, without.affine * alone[..., None], atol=1e-6)
    for name in ("contrast", "brightness", "box"):
        np.testing.assert_array_equal(getattr(cropped, name), getattr(without, name))
    whole = parameters(50, **EVERYTHING, crop=(1, 1), crop_aspect=(1, 1))
    for name, value in vars(without).items():
        np.testing.assert_array_equal(getattr(whole, name), value)


def test_drawn_contrast_and_brightness_stay_within_bounds() -> None:
    p = parameters(2000, contrast=0.3, brightness=0.2)
    assert 0.7 - 1e-6 <= p.contrast.min() < 0.71
    assert 1.29 < p.contrast.max() <= 1.3 + 1e-6
    assert -0.2 - 1e-6 <= p.brightness.min() < -0.19
    assert 0.19 < p.brightness.max() <= 0.2 + 1e-6
    assert abs(np.corrcoef(p.contrast, p.brightness)[0, 1]) < 0.1


def test_contrast_is_about_the_images_own_mean_and_grey_levels_stay_in_range() -> None:
    x = images(2, 1, 48, 48)
    x[1] //= 4
    level = plain(48)(x)
    mean = level.mean((1, 2, 3), keepdim=True)
    out = plain(48)(x, still(2, contrast=[0.5, 1.5], brightness=[0.1, -0.1]))
    factor, offset = (torch.tensor(v).view(2, 1, 1, 1) for v in ([0.5, 1.5], [0.1, -0.1]))
    expected = (mean + (level - mean) * factor + offset).clamp(0, 1)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)
    assert out[1].min() == 0  # the clamp was needed


@settings(max_examples=30)
@given(st.floats(1e-3, 1), st.floats(1e-3, 1), st.integers(0, 10_000))
def test_erased_boxes_have_the_configured_area_and_lie_in_the_image(
    a: float, b: float, step: int
) -> None:
    low, high = sorted((a, b))
    box = parameters(64, step, erasing=1, erasing_area=(low, high)).box
    x0, y0, x1, y1 = box.T
    assert box.min() >= 0
    assert box.max() <= 1 + 1e-6
    area = (x1 - x0) * (y1 - y0)
    assert (area >= low - 1e-5).all()
    assert (area <= high + 1e-5).all()


def test_erased_boxes_differ_in_area_shape_and_place() -> None:
    x0, y0, x1, y1 = parameters(2000, erasing=1, erasing_area=(0.02, 0.2)).box.T
    area, ratio = (x1 - x0) * (y1 - y0), (y1 - y0) / (x1 - x0)
    assert area.min() < 0.03
    assert area.max() > 0.19
    assert 1 / 3.31 < ratio.min() < 0.32
    assert 3.2 < ratio.max() < 3.31
    assert np.corrcoef([x0, y0])[0, 1] < 0.3
    assert min(x0.min(), y0.min()) < 0.01
    assert max(x1.max(), y1.max()) > 0.99


def test_a_certain_erasing_blanks_a_rectangle_to_the_normalised_mean() -> None:
    size, low, high = 96, 0.05, 0.3
    x = torch.full((50, 3, 48, 48), 255, dtype=torch.uint8)
    out = Preprocess(size, MEAN, STD)(x, parameters(50, erasing=1, erasing_area=(low, high)))
    for image in out:
        gone = image == 0
        assert torch.equal(gone[0], gone[1])
        assert torch.equal(gone[0], gone[2])
        rows, columns = gone[0].any(1), gone[0].any(0)
        assert torch.equal(gone[0], rows[:, None] & columns[None])
        height, width = int(rows.sum()), int(columns.sum())
        # The edges fall between pixels, so there may be one row and one column more or less.
        assert (height + 1) * (width + 1) > low * size**2
        assert (height - 1) * (width - 1) < high * size**2
        assert (image[~gone] > 1).all()  # the edge of the image too


def test_erasing_at_zero_erases_nothing_and_at_a_half_about_half() -> None:
    assert not parameters(500).box.any()
    x = torch.full((500, 1, 48, 48), 255, dtype=torch.uint8)
    assert (plain(48)(x, parameters(500)) > 0.99).all()
    assert parameters(4000, erasing=0.5).box.any(1).mean() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("shape", [(192, 192), (192, 16), (16, 192)])
@pytest.mark.parametrize("augmented", [False, True])
def test_a_larger_image_is_shrunk_without_aliasing(shape: tuple[int, int], augmented: bool) -> None:
    """Stripes finer than the output's pixels become grey, in either direction."""
    height, width = shape
    # Plain sampling would hit only one kind of stripe: at 3.5, 11.5, and so on.
    stripes = ((torch.arange(max(shape)) + 2) % 8 < 4).to(torch.uint8) * 255
    image = stripes.expand(height, width) if width == 192 else stripes[:, None].expand(shape)
    out = plain(24)(image[None, None].contiguous(), still() if augmented else None)
    assert (out[..., 2:-2, 2:-2] - 0.5).abs().max() < 0.1


def test_shrinking_agrees_with_the_mean_over_the_pixels_that_merge() -> None:
    x = F.interpolate(torch.rand(1, 1, 4, 4), (64, 64), mode="bicubic").clamp(0, 1)
    x = (x * 255).to(torch.uint8)
    out = plain(16)(x)[0, 0]
    torch.testing.assert_close(out, F.avg_pool2d(x / 255, 4)[0, 0], atol=0.03, rtol=0)


@pytest.mark.parametrize("world", [1, 2, 3, 4, 12])
def test_a_ranks_parameters_are_its_slice_of_the_global_draw(world: int) -> None:
    everything = config(**EVERYTHING, crop=(0.5, 1))
    whole = draw(everything, 5, 6, 7, 12, slice(0, 12))
    share = 12 // world
    parts = [draw(everything, 5, 6, 7, 12, slice(r * share, (r + 1) * share)) for r in range(world)]
    for name, value in vars(whole).items():
        np.testing.assert_array_equal(np.concatenate([vars(p)[name] for p in parts]), value)


def test_every_image_of_a_batch_and_every_step_epoch_and_seed_draws_anew() -> None:
    everything = config(**EVERYTHING)
    places = [(1, 2, 3), (1, 2, 4), (1, 3, 3), (2, 2, 3)]
    affine = np.concatenate([draw(everything, *p, 8, slice(0, 8)).affine for p in places])
    assert len(np.unique(affine.reshape(32, 4), axis=0)) == 32
    again = draw(everything, 1, 2, 3, 8, slice(0, 8)).affine
    np.testing.assert_array_equal(again, affine[:8])


def test_golden_draw() -> None:
    """A later release must continue a run of this one with the same pixels."""
    p = draw(config(**EVERYTHING), 42, 7, 1234, 4, slice(1, 2))
    got = [*p.affine.ravel(), *p.shift.ravel(), *p.contrast, *p.brightness, *p.box.ravel()]
    np.testing.assert_allclose(got, GOLDEN, atol=1e-6)


def run_config(shards: ShardSet, cache: Path, **augment: Any) -> Config:
    return Config.model_validate(
        {
            "seed": 9,
            "data": {"shards": str(shards.folder), "cache": str(cache), "image_size": 64},
            "augment": augment,
            "trainer": {"global_batch": 8, "eval_batch": 5},
        }
    )


def rank_data(shards: ShardSet, cache: Path, rank: int = 0, world: int = 1) -> FERData:
    run = run_config(shards, cache, **EVERYTHING)
    who = World("torchrun", rank, world, rank, world) if world > 1 else World()
    return FERData(run, who, Preprocess(64, MEAN, STD), shards.manifest)


def epoch_pixels(shards: ShardSet, cache: Path, world: int, epoch: int = 0) -> torch.Tensor:
    """[steps, global batch, 3, 64, 64], assembled from the loaders of all ranks."""
    ranks = []
    for rank in range(world):
        data = rank_data(shards, cache, rank, world)
        loader = data.train_dataloader()
        loader.set_epoch(epoch)
        ranks.append(torch.stack([data.prepare(batch, True) for batch in loader]))
    return torch.cat(ranks, 1)


def test_the_pixels_of_every_step_are_the_same_for_any_number_of_ranks(
    shard_set: ShardSet, cache: Path
) -> None:
    alone = epoch_pixels(shard_set, cache, 1)
    assert alone.shape == (13, 8, 3, 64, 64)
    for world in (2, 4):
        assert torch.equal(epoch_pixels(shard_set, cache, world), alone)


def test_the_same_place_gives_the_same_pixels_and_another_step_or_epoch_does_not(
    shard_set: ShardSet, cache: Path
) -> None:
    data = rank_data(shard_set, cache)
    batch = next(iter(data.train_dataloader()))
    pixels = data.prepare(batch, True)
    assert torch.equal(data.prepare(batch, True), pixels)
    for change in ({"step": 1}, {"epoch": 1}):
        other = data.prepare({**batch, **change}, True)  # type: ignore[typeddict-item]
        assert ((other - pixels).abs().amax((1, 2, 3)) > 0.05).all()


def test_only_training_augments(shard_set: ShardSet, cache: Path) -> None:
    data = rank_data(shard_set, cache)
    batch = next(iter(data.train_dataloader()))
    resized = Preprocess(64, MEAN, STD)(batch["image"])
    assert torch.equal(data.prepare(batch, False), resized)
    for training in (True, False):
        trainer: Any = SimpleNamespace(training=training, max_epochs=15)
        data.trainer = trainer
        handed = data.on_after_batch_transfer(batch, 0)
        assert torch.equal(handed["image"], data.prepare(batch, training))
        assert torch.equal(handed["image"], resized) is not training
        assert {k: v for k, v in handed.items() if k != "image"} == {
            k: v for k, v in batch.items() if k != "image"
        }
