"""What a loader yields."""

from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from pattlite_dist.data.sampler import Place


class _Frame(TypedDict):
    id: torch.Tensor
    counts: torch.Tensor
    good: torch.Tensor
    weight: torch.Tensor
    counted: int
    left_out: int
    epoch: int
    step: int


class Batch(_Frame, total=False):
    """What a loader yields.

    `image` is uint8 [n, C, H, W]; `label` and `id` int64, `flags` uint8, `counts` and `good` bool,
    each [n]. A sample that does not count is padding, or stands for one of a bad shard, and only
    the latter is not `good`; `counted` is the number of those that count, `left_out` that of those
    that would if they were good. `weight`, float32 [n], is each
    sample's in training: 0 if it does not count, and such that the mean of weighted losses over
    the places of all ranks is the mean loss of the samples that count. `target`, float32
    [n, classes], is present if the set has class shares in addition to the label.
    """

    image: torch.Tensor
    label: torch.Tensor
    flags: torch.Tensor
    target: torch.Tensor


def frame(place: Place, good: NDArray[np.bool_]) -> Batch:
    """All of a batch but its samples.

    Args:
        place: of the batch in the plan.
        good: bool [n], whether each sample is the requested one.
    """
    counts = place.counts & good
    return Batch(
        id=torch.from_numpy(place.ids),
        counts=torch.from_numpy(counts),
        good=torch.from_numpy(good),
        weight=torch.from_numpy(counts * np.float32(place.weight)),
        counted=int(counts.sum()),
        left_out=int((place.counts & ~good).sum()),
        epoch=place.epoch,
        step=place.step,
    )


def pieces(batch: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """A batch in about equal pieces; what is no tensor is in none of them."""
    if number == 1:
        return [batch]
    columns = {k: v.chunk(number) for k, v in batch.items() if isinstance(v, torch.Tensor)}
    return [dict(zip(columns, part, strict=True)) for part in zip(*columns.values(), strict=True)]
