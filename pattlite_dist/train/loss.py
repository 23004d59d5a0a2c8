"""What a training step minimises."""

from typing import Any

import torch
from torch.nn import functional as F

from pattlite_dist.config import Config
from pattlite_dist.data.mix import mixes


def loss_of(
    logits: torch.Tensor,
    batch: dict[str, Any],
    config: Config,
    class_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Weighted mean cross entropy of a batch against its labels, or its vote or mixed shares.

    Samples that fill a short last batch have weight 0, and the others weigh so much more that the
    mean over all ranks is theirs. Placeholders for the samples of a skipped shard also have weight
    0, but nothing makes up for them: otherwise the weight of the others would depend on the ranks.

    Args:
        logits: float [n, classes].
        batch: see `data.batch.Batch`.
        config: of the run; label smoothing applies to every kind of target.
        class_weights: float [classes], each class's, with a mean of 1 over the samples of an epoch.
    """
    shares = config.data.targets == "votes" or mixes(config.augment)
    goal: torch.Tensor = batch["target" if shares else "label"]
    smoothing = config.optim.label_smoothing
    if config.data.bad_shards == "skip" or config.data.tail == "pad" or class_weights is not None:
        losses = F.cross_entropy(
            logits, goal, class_weights, label_smoothing=smoothing, reduction="none"
        )
        weight: torch.Tensor = batch["weight"]
        return (losses * weight).mean()
    return F.cross_entropy(logits, goal, label_smoothing=smoothing)
