"""Augmentation of whole batches on the model's device, the same whatever the number of ranks.

The parameters of a step are drawn for its global batch from (seed, epoch, step) and sliced by rank.
One affine map per image does resize, crop, flip, rotation, shift and scale in a single
interpolation.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from pattlite_dist.data.plan import AUGMENT, raw_stream
from pattlite_dist.data.settings import AugmentConfig

_DRAWS, _CROP_DRAWS = 12, 4  # uniform numbers per image
_NEUTRAL = {"shift": 0.0, "contrast": 1.0, "brightness": 0.0, "box": 0.0}  # changes nothing


@dataclass(frozen=True)
class Parameters:
    """What happens to each of n images; float32 arrays.

    Attributes:
        affine: [n, 2, 2], from output to input directions, in pixels.
        shift: [n, 2], of the output's centre in the input, as fractions of width and height.
        contrast: [n], factor about the image's own mean.
        brightness: [n], added to grey levels in 0-1.
        box: [n, 4], erased x0, y0, x1, y1 as fractions of the image; all 0 if nothing is erased.
    """

    affine: NDArray[np.float32]
    shift: NDArray[np.float32]
    contrast: NDArray[np.float32]
    brightness: NDArray[np.float32]
    box: NDArray[np.float32]


def uniform(raw: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Random words as numbers in [0, 1)."""
    numbers: NDArray[np.float64] = (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return numbers


def draw(
    config: AugmentConfig,
    seed: int,
    epoch: int,
    step: int,
    global_batch: int,
    part: slice | NDArray[np.int64],
) -> Parameters:
    """Draw the parameters of one step's global batch and keep those at a rank's places."""
    crops = _CROP_DRAWS if config.crop else 0
    raw = raw_stream(seed, epoch, AUGMENT, step, global_batch * (_DRAWS + crops))
    raw, more = np.split(raw, [global_batch * _DRAWS])
    (flip, turn, dx, dy, zoom, contrast, brightness, erase, area, aspect, left, top) = uniform(
        raw.reshape(global_batch, _DRAWS)[part].T
    )
    mirror = np.where(flip < config.flip, -1.0, 1.0)
    angle = np.deg2rad(config.rotation) * _signed(turn)
    factor = 1 / (1 + config.scale * _signed(zoom))
    cos, sin = np.cos(angle) * factor, np.sin(angle) * factor
    affine = np.stack([np.stack([cos * mirror, -sin], -1), np.stack([sin * mirror, cos], -1)], -2)
    shift = np.stack([_signed(dx), _signed(dy)], -1) * config.shift
    if config.crop:
        sides, centre = _crops(config, *uniform(more.reshape(global_batch, crops)[part].T))
        affine, shift = affine * sides[..., None], shift * sides + centre
    return Parameters(
        affine.astype(np.float32),
        shift.astype(np.float32),
        (1 + config.contrast * _signed(contrast)).astype(np.float32),
        (config.brightness * _signed(brightness)).astype(np.float32),
        _boxes(config, erase, area, aspect, left, top).astype(np.float32),
    )


def _signed(uniform: NDArray[np.float64]) -> NDArray[np.float64]:
    return 2 * uniform - 1


def _crops(
    config: AugmentConfig, *draws: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Width and height of what is seen, and where its centre lies, as fractions of the image.

    As torchvision's RandomResizedCrop (Szegedy et al., arXiv:1409.4842), but where it draws again
    because a side is too long, that side is the image's and the other one makes up the area. What
    a rotation brings in from beyond the crop is the image, not black.
    """
    area, aspect, left, top = draws
    assert config.crop is not None
    smallest, largest = config.crop
    narrow, wide = np.log(config.crop_aspect)
    wanted = smallest + (largest - smallest) * area
    sides = _sides(wanted, np.exp(-narrow - (wide - narrow) * aspect))
    return sides, (np.stack([left, top], -1) - 0.5) * (1 - sides)


def _sides(area: NDArray[np.float64], tall: NDArray[np.float64]) -> NDArray[np.float64]:
    """Width and height of rectangles in an image; `tall` is height by width.

    A side is clipped to the image, and the other one makes up the area.
    """
    return np.stack([np.clip(np.sqrt(x), area, 1) for x in (area / tall, area * tall)], -1)


def _boxes(config: AugmentConfig, *draws: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rectangles to erase (Zhong et al., arXiv:1708.04896), aspect 0.3 to 3.3."""
    erase, area, aspect, left, top = draws
    smallest, largest = config.erasing_area
    wanted = smallest + (largest - smallest) * area
    ratio = np.exp(math.log(3.3) * _signed(aspect))
    width, height = _sides(wanted, ratio).T
    x0, y0 = left * (1 - width), top * (1 - height)
    box = np.stack([x0, y0, x0 + width, y0 + height], -1)
    return np.where((erase < config.erasing)[:, None], box, 0.0)


class Preprocess:
    """Converts uint8 images to the model's normalised input.

    Args:
        size: side of the output, pixels.
        mean: per channel, on the 0-1 scale.
        std: per channel, on the 0-1 scale.
        others: sides that a call may ask for instead.
    """

    def __init__(
        self,
        size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        others: Iterable[int] = (),
    ) -> None:
        self.size = size
        scale = 1 / torch.tensor(std).view(1, -1, 1, 1)
        levels = (-torch.tensor(mean).view(1, -1, 1, 1) * scale, scale)
        self._constants = {side: (*levels, *_places(side)) for side in {size, *others}}
        self._there: dict[tuple[torch.device, int], tuple[torch.Tensor, ...]] = {}

    def __call__(
        self,
        images: torch.Tensor,
        parameters: Parameters | None = None,
        size: int | None = None,
    ) -> torch.Tensor:
        """Turn uint8 [n, C, H, W] into float32 [n, 3, size, size], augmented by `parameters`.

        Without parameters, the image is only resized, by the same interpolation. A grey image
        becomes three equal channels before normalisation.
        """
        x, size = images.float() / 255, size or self.size
        if parameters is None:
            return self._normalise(resized(x, size))
        # A transform that is switched off is off on every rank, and costs nothing.
        used = {name: v for name, v in vars(parameters).items() if (v != _NEUTRAL.get(name)).any()}
        p = together(used, x.device)
        x = self._warp(x, p["affine"], p.get("shift"), size)
        if "contrast" in p or "brightness" in p:
            contrast, brightness = (
                p[name].view(-1, 1, 1, 1) if name in p else _NEUTRAL[name]
                for name in ("contrast", "brightness")
            )
            centre = x.mean((1, 2, 3), keepdim=True)
            x = ((x - centre) * contrast + centre + brightness).clamp(0, 1)
        x = self._normalise(x)
        return x * self._kept(p["box"], size) if "box" in p else x

    def _warp(
        self, x: torch.Tensor, affine: torch.Tensor, shift: torch.Tensor | None, size: int
    ) -> torch.Tensor:
        height, width = x.shape[-2:]
        if max(height, width) > size:  # sampling a larger image directly would alias
            x = resized(x, size)
        # grid_sample's coordinates run from -1 to 1 on either axis. Written out because
        # `affine_grid` takes three times as long as the sampling itself.
        _, _, places, _ = self._on(x.device, size)
        planes = []
        for axis, stretch in enumerate(((1.0, height / width), (width / height, 1.0))):
            by_x, by_y = (
                affine[:, axis, i, None] * (places if stretch[i] == 1 else stretch[i] * places)
                for i in (0, 1)
            )
            if shift is not None:
                by_y = by_y + 2 * shift[:, axis, None]
            planes.append(by_x[:, None, :] + by_y[:, :, None])
        grid = torch.stack(planes, -1)
        x = F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
        # Outside the image is black. `zeros` would also darken the edges of an image that is only
        # enlarged, because its outermost samples lie in the outer half of its outermost pixels.
        half = size / 2
        inside = [plane.abs_().mul_(-half).add_(half + 0.5).clamp_(0, 1) for plane in planes]
        return x.mul_((inside[0] * inside[1])[:, None])

    def _normalise(self, x: torch.Tensor) -> torch.Tensor:
        offset, scale, _, _ = self._on(x.device, self.size)
        return torch.addcmul(offset, x, scale)

    def _kept(self, box: torch.Tensor, size: int) -> torch.Tensor:
        """1 where the image stays, 0 (the normalised mean) where it is erased."""
        _, _, _, shares = self._on(box.device, size)
        x0, y0, x1, y1 = box.unsqueeze(-1).unbind(1)
        columns, rows = (shares >= x0) & (shares < x1), (shares >= y0) & (shares < y1)
        return (~(rows[:, :, None] & columns[:, None, :])).float()[:, None]

    def _on(self, device: torch.device, size: int) -> tuple[torch.Tensor, ...]:
        """The constants for a side on a device, where they are moved once."""
        key = (device, size)
        if key not in self._there:
            self._there[key] = tuple(constant.to(device) for constant in self._constants[size])
        return self._there[key]


def _places(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The centres of a side's pixels: from -1 to 1, as grid_sample's, and from 0 to 1."""
    centres = torch.arange(size) + 0.5
    return centres * (2 / size) - 1, centres / size


def resized(x: torch.Tensor, size: int) -> torch.Tensor:
    """Images [n, C, H, W] as [n, C, size, size], without aliasing if they shrink."""
    shrinks = max(x.shape[-2:]) > size
    return F.interpolate(x, (size, size), mode="bilinear", antialias=shrinks)


def together(
    arrays: dict[str, NDArray[np.float32]], device: torch.device
) -> dict[str, torch.Tensor]:
    """The arrays as tensors on a device, in one copy that a GPU need not be waited for."""
    n = len(next(iter(arrays.values())))
    packed = torch.from_numpy(np.concatenate([v.reshape(n, -1) for v in arrays.values()], 1))
    if device.type == "cuda":
        packed = packed.pin_memory()
    sizes = [v[0].size for v in arrays.values()]
    columns = torch.split(packed.to(device, non_blocking=True), sizes, dim=1)
    return {
        name: column.reshape(v.shape)
        for (name, v), column in zip(arrays.items(), columns, strict=True)
    }
