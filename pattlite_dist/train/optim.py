"""Optimiser, learning-rate schedule and averaged weights."""

import math
from typing import Any

import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from pattlite_dist.compat.lightning import restart_average
from pattlite_dist.config import Config
from pattlite_dist.train.settings import OptimConfig, Schedule


def lr_factor(
    step: int, total: int, warmup: int, schedule: Schedule, decay: float = math.inf
) -> float:
    """The learning rate at a step, relative to its peak.

    It rises linearly over `warmup` steps; then it is constant, or follows half a cosine to 0 at
    `total` (Loshchilov and Hutter, arXiv:1608.03983, without restarts), or Keras'
    InverseTimeDecay with a decay rate of 1, which halves it after `decay` steps.
    """
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    if schedule == "inverse_time":
        return 1 / (1 + (step - warmup) / decay)
    progress = min((step - warmup) / max(total - warmup, 1), 1.0)
    return 0.5 * (1 + math.cos(math.pi * progress))


def warmup_steps(config: OptimConfig, steps_per_epoch: int) -> int:
    """Number of linear warm-up steps; weight averaging starts after them."""
    return round(config.warmup_epochs * steps_per_epoch)


def lr_relative(step: int, config: Config, steps_per_epoch: int) -> float:
    """The learning rate at a step of the run, relative to `optim.lr`; a pure function.

    Each stage has its own peak and schedule, from its first step to its last.
    """
    optim, finetune, epochs = config.optim, config.finetune, config.trainer.epochs
    start = finetune.start_epoch
    first = None if start is None else start * steps_per_epoch
    if first is None or step < first:
        total = epochs * steps_per_epoch if first is None else first
        warmup = warmup_steps(optim, steps_per_epoch)
        return lr_factor(step, total, warmup, optim.schedule, optim.decay_epochs * steps_per_epoch)
    total, decay = epochs * steps_per_epoch - first, finetune.decay_epochs * steps_per_epoch
    return finetune.lr / optim.lr * lr_factor(step - first, total, 0, finetune.schedule, decay)


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Weights with decay; norms, biases and other vectors without; backbone with its own rate."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        key = (name.startswith("backbone."), parameter.ndim > 1)
        groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": config.lr * (config.backbone_lr_scale if backbone else 1),
            "weight_decay": config.weight_decay if decayed else 0.0,
        }
        for (backbone, decayed), parameters in groups.items()
    ]


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Adam or AdamW over the model's parameter groups."""
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return kind(parameter_groups(model, config), lr=config.lr, fused=True)


class Ema(WeightAveraging):
    """Exponential moving average of the weights, used for validation and stored in checkpoints.

    The average starts as a copy of the weights when the warm-up ends, so that it does not include
    the random head's first steps.
    """

    def __init__(self, decay: float, start_step: int) -> None:
        super().__init__(multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]
        self.start_step = start_step

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Copy until the warm-up ends, then average after every step."""
        if step_idx is not None and step_idx < self.start_step:
            restart_average(self)
        return step_idx is not None
