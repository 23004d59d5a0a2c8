"""Learning rates by step, and what a global batch makes of them: pure functions, no torch."""

import math

from pattlite_dist.config import Config
from pattlite_dist.train.settings import OptimConfig, Schedule


def lr_factor(
    step: float, total: int, warmup: int, schedule: Schedule, decay: float = math.inf
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


def lr_scale(config: OptimConfig, global_batch: int) -> float:
    """What a global batch multiplies learning rates by, as `lr_rule` says.

    Linear is for SGD (Goyal et al., arXiv:1706.02677); the square root for Adam, whose steps do not
    depend on the scale of a gradient (Malladi et al., arXiv:2205.10287).
    """
    ratio = global_batch / config.reference_batch
    return {"none": 1.0, "sqrt": math.sqrt(ratio), "linear": ratio}[config.lr_rule]


def ema_decay(config: OptimConfig, global_batch: int) -> float:
    """The average's decay per step; by `lr_rule`, the same per sample for every global batch."""
    ratio = global_batch / config.reference_batch
    return config.ema if config.lr_rule == "none" else float(config.ema**ratio)


def warmup_steps(config: OptimConfig, steps_per_epoch: int) -> int:
    """Number of linear warm-up steps; weight averaging starts after them."""
    return round(config.warmup_epochs * steps_per_epoch)


def lr_relative(step: float, config: Config, steps_per_epoch: int) -> float:
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
