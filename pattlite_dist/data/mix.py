"""Mixup and cutmix: each image of a batch is mixed with its partner, and so is its target.

The partner is the next place of the global batch, the first one for the last: the order is random
anyway, and so a rank's share requires only one image more, whatever the number of ranks. That image
is augmented as its own place says, so that what is mixed is the same on all of them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pattlite_dist.data.augment import together, uniform
from pattlite_dist.data.plan import MIX, raw_stream
from pattlite_dist.data.settings import AugmentConfig

_DRAWS = 6  # uniform numbers per image


@dataclass(frozen=True)
class Mixing:
    """What each of n images takes from its partner; float32 arrays.

    Attributes:
        blend: [n], the partner's share of every pixel (mixup); 0 if it is not blended.
        box: [n, 4], x0, y0, x1, y1 in pixels of what the partner replaces (cutmix); all 0 if that
            is nothing.
        share: [n], the partner's share of the target: `blend`, or the exact share of the area.
    """

    blend: NDArray[np.float32]
    box: NDArray[np.float32]
    share: NDArray[np.float32]


def mixes(config: AugmentConfig) -> bool:
    """Whether images are mixed; then the target of every one is shares of the classes."""
    return config.mixup > 0 or config.cutmix > 0


def symmetric_beta(
    alpha: float, u: NDArray[np.float64], v: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Numbers from Beta(alpha, alpha), each from two uniform ones; exact for any alpha above 0.

    Bailey's polar generator of Student's t (Math. Comp. 62, 1994) with 2 alpha degrees of freedom,
    of which a symmetric beta variate is a function (Devroye, WSC 1996). Unlike the usual rejection
    algorithms it uses a fixed number of draws, and unlike `Generator.beta` no version changes it.
    """
    w, cos = u ** (1 / alpha), np.cos(2 * np.pi * v)
    part = (1 - w) * cos**2
    numbers: NDArray[np.float64] = (1 + np.sign(cos) * np.sqrt(part / (w + part))) / 2
    return numbers


def draw_mixing(
    config: AugmentConfig,
    seed: int,
    epoch: int,
    step: int,
    global_batch: int,
    part: slice,
    size: int,
) -> Mixing:
    """Draw how one step's global batch of images of a side is mixed; keep a rank's part of it.

    The box is the paper's (arXiv:1905.04899): of aspect 1, about a centre anywhere in the image,
    outside of which it is cut off.
    """
    raw = raw_stream(seed, epoch, MIX, step, global_batch * _DRAWS)
    chance, switch, u, v, x, y = uniform(raw.reshape(global_batch, _DRAWS)[part].T)
    both = config.mixup > 0 and config.cutmix > 0
    cuts = switch < config.mix_switch if both else np.full(len(u), config.cutmix > 0)
    used = chance < config.mix_prob
    blend, side = np.zeros((2, len(u)))
    if config.mixup > 0:
        blend = np.where(used & ~cuts, symmetric_beta(config.mixup, u, v), 0)
    if config.cutmix > 0:
        side = np.where(used & cuts, np.sqrt(symmetric_beta(config.cutmix, u, v)), 0)
    centre = np.stack([x, y], -1)
    edges = np.concatenate([centre - side[:, None] / 2, centre + side[:, None] / 2], -1)
    box = np.rint(edges.clip(0, 1) * size)
    area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) / size**2
    box[area == 0] = 0
    share = np.where(cuts, area, blend)
    return Mixing(blend.astype(np.float32), box.astype(np.float32), share.astype(np.float32))


def mixed(batch: dict[str, Any], mixing: Mixing, classes: int, soft: bool) -> dict[str, Any]:
    """The n mixed images of a batch, with their targets and the labels of the larger share.

    An image stays as it is if its partner stands for one of a skipped shard.

    Args:
        batch: see `Batch`, of n + 1 samples, the last of which is only a partner; `image` is the
            normalised one, float32 [n + 1, 3, size, size]; `soft` are targets of a file, if any.
        mixing: of the n images.
        classes: number of them.
        soft: whether the batch has targets; otherwise its labels are.
    """
    arrays = {"share": mixing.share, "blend": mixing.blend, "box": mixing.box}
    alone = ~batch["good"][1:].numpy()
    if alone.any():
        arrays = {k: np.where(alone.reshape(-1, *[1] * (v.ndim - 1)), np.float32(0), v)
                  for k, v in arrays.items()}  # fmt: skip
    used = {k: v for k, v in arrays.items() if k == "share" or v.any()}
    image, label = batch["image"], batch["label"]
    p = together(used, image.device)
    share = p["share"]
    target = batch["target"] if soft else _shares(label, classes)
    result = {k: v[:-1] if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
    result["label"] = torch.where(share > 0.5, label[1:], label[:-1])
    result["target"] = target[:-1] * (1 - share[:, None]) + target[1:] * share[:, None]
    if "soft" in batch:
        others = batch["soft"]
        result["soft"] = others[:-1] * (1 - share[:, None]) + others[1:] * share[:, None]
    if len(p) > 1:
        taken = p["blend"].view(-1, 1, 1, 1) if "blend" in p else share.new_zeros(1, 1, 1, 1)
        if "box" in p:
            taken = torch.maximum(taken, _inside(p["box"], image.shape[-1]))
        # Not `lerp`, whose last bit depends on an image's place in the memory.
        result["image"] = image[:-1] * (1 - taken) + image[1:] * taken
    return result


def _shares(label: torch.Tensor, classes: int) -> torch.Tensor:
    return (label[:, None] == torch.arange(classes, device=label.device)).float()


def _inside(box: torch.Tensor, size: int) -> torch.Tensor:
    """1 in the box, 0 outside, float32 [n, 1, size, size]."""
    pixels = torch.arange(size, device=box.device)
    x0, y0, x1, y1 = box.unsqueeze(-1).unbind(1)
    columns, rows = (pixels >= x0) & (pixels < x1), (pixels >= y0) & (pixels < y1)
    return (rows[:, :, None] & columns[:, None, :]).float()[:, None]
