"""Is a prediction a function of its image alone? Measured, whatever the configuration says.

A network in which images of a batch see each other, as in the reference code of PAtt-Lite, has
no single accuracy: it has one for each way of dividing a test set into batches.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from pattlite_dist.data.reader import ShardReader
from pattlite_dist.evaluation.schema import Independence

TOLERANCE = 1e-5  # of a probability: the order of summation may change it this much
PROBES = 32

Predict = Callable[[torch.Tensor], torch.Tensor]


def choose_probes(samples: int, probes: int = PROBES) -> tuple[NDArray[np.int64], ...]:
    """Samples to probe, and others as companions: ids, int64, spread over a split.

    Both sets have the same size; they share a sample only if there are too few.
    """
    count = min(probes, samples)
    ids = np.arange(count) * samples // count
    return ids, (ids + max(samples // (2 * count), 1)) % samples


def measure(predict: Predict, images: torch.Tensor, others: torch.Tensor) -> Independence:
    """Compare predictions of images alone with those of the same images in batches.

    Args:
        predict: uint8 images [n, C, H, W] to probabilities, float64 [n, classes].
        images: to probe.
        others: the same number of companions.
    """
    n = len(images)
    with torch.inference_mode():
        alone = torch.cat([predict(image[None]) for image in images])
        together = predict(images)
        reordered = predict(images.flip(0)).flip(0)
        # Both halves get the same companions, so every image gets entirely new ones.
        halves = [images[: n // 2], images[n // 2 :]]
        amid = [predict(torch.cat([half, others]))[: len(half)] for half in halves]
    return Independence(
        samples=n,
        tolerance=TOLERANCE,
        together=_largest(together, alone),
        reordered=_largest(reordered, alone),
        companions=_largest(torch.cat(amid), alone),
    )


def measure_split(predict: Predict, reader: ShardReader, device: torch.device) -> Independence:
    """Measure with samples spread over a split."""
    probes, others = (
        torch.from_numpy(reader.gather(ids).block.images).to(device)
        for ids in choose_probes(len(reader))
    )
    return measure(predict, probes, others)


def _largest(found: torch.Tensor, alone: torch.Tensor) -> float:
    return float((found - alone).abs().max())
