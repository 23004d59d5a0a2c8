"""Optimiser, learning-rate schedule and averaged weights."""

import math
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import nn

from pattlite_dist.compat.lightning import average_of, update_due
from pattlite_dist.compat.torch import copy_all, move_all
from pattlite_dist.config import Config
from pattlite_dist.model.backbones import MobileNetV1, MobileNetV2, blocks
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


def parameter_groups(
    model: nn.Module, config: OptimConfig, scale: float = 1.0
) -> list[dict[str, Any]]:
    """Weights with decay; norms, biases and positions without; backbone with its own rates.

    With `layer_decay`, rates fall from block to block towards the input, as in timm and BEiT (Bao
    et al., arXiv:2106.08254): the last block's is the first that is lower.

    Args:
        model: to train.
        config: of the optimiser.
        scale: of all learning rates.
    """
    groups: dict[tuple[bool, int, bool], list[nn.Parameter]] = {}
    depths = {} if config.layer_decay == 1 else _depths(model)
    for name, parameter in model.named_parameters():
        position = name.endswith("position") and not config.decay_positions
        decayed = parameter.ndim > 1 and not position
        key = (name.startswith("backbone."), depths.get(parameter, 0), decayed)
        groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": config.lr
            * scale
            * (config.backbone_lr_scale if backbone else 1)
            * config.layer_decay**depth,
            "weight_decay": config.weight_decay if decayed else 0.0,
        }
        for (backbone, depth, decayed), parameters in groups.items()
    ]


def _depths(model: nn.Module) -> dict[nn.Parameter, int]:
    """For each parameter of the backbone, the number of blocks from its own to the last."""
    backbone = model.backbone
    assert isinstance(backbone, MobileNetV1 | MobileNetV2)
    return {
        parameter: depth
        for depth, block in enumerate(reversed(blocks(backbone)), 1)
        for parameter in block.parameters()
    }


def build_optimizer(
    model: nn.Module, config: OptimConfig, scale: float = 1.0
) -> torch.optim.Optimizer:
    """The named optimiser over the model's parameter groups; see `parameter_groups`."""
    groups, lr = parameter_groups(model, config, scale), config.lr * scale
    if config.name == "sgd":
        momentum = config.momentum
        nesterov = config.nesterov and momentum > 0
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=True)
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return kind(groups, lr=lr, betas=config.betas, eps=config.eps, fused=True)


class Ema(WeightAveraging):
    """Exponential moving average of the weights, used for validation and stored in checkpoints.

    The average starts as a copy of the weights when the warm-up ends, so that it does not include
    the random head's first steps. Statistics of BatchNorm are averaged, its counters copied.

    Args:
        decay: of the average, per step.
        start_step: number of steps after which it starts.
    """

    def __init__(self, decay: float, start_step: int) -> None:
        super().__init__()
        self.decay, self.start_step = decay, start_step
        self._pairs: dict[bool, tuple[list[torch.Tensor], list[torch.Tensor]]] = {}

    def on_train_epoch_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Look the tensors up again: once an epoch, because that takes longer than averaging."""
        self._pairs.clear()

    def on_train_batch_end(
        self,
        trainer: "pl.Trainer",
        pl_module: "pl.LightningModule",
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Copy until the warm-up ends, then average after every step.

        As Lightning does, but without asking the GPU for a counter, and in a few launches for all
        tensors instead of some for each.
        """
        step, average = trainer.global_step, average_of(self)
        if average is None or not update_due(self, step):
            return
        if not self._pairs:
            pairs = list(zip(_tensors(average), _tensors(pl_module), strict=True))
            for floating in (True, False):
                kept = [pair for pair in pairs if pair[0].is_floating_point() == floating]
                self._pairs[floating] = [one for one, _ in kept], [other for _, other in kept]
        starts = step <= max(self.start_step, 1)
        for floating, (averages, weights) in self._pairs.items():
            if starts or not floating:
                copy_all(averages, weights)
            else:
                move_all(averages, weights, 1 - self.decay)


def _tensors(network: nn.Module) -> list[torch.Tensor]:
    return [tensor.detach() for tensor in (*network.parameters(), *network.buffers())]
