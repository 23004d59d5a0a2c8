"""Optimiser and averaged weights."""

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import nn

from pattlite_dist.compat.lightning import average_of, update_due
from pattlite_dist.compat.torch import copy_all, move_all
from pattlite_dist.model.backbones import MobileNetV1, MobileNetV2, blocks
from pattlite_dist.train.settings import OptimConfig


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
    return [
        {
            "params": parameters,
            "lr": config.lr
            * scale
            * (config.backbone_lr_scale if backbone else 1)
            * config.layer_decay**depth,
            "weight_decay": config.weight_decay if decayed else 0.0,
        }
        for (backbone, depth, decayed), parameters in _groups(model, config).items()
    ]


def _groups(
    model: nn.Module, config: OptimConfig
) -> dict[tuple[bool, int, bool], list[nn.Parameter]]:
    """Parameters by what makes their rates: in the backbone, at a depth, decayed."""
    groups: dict[tuple[bool, int, bool], list[nn.Parameter]] = {}
    depths = {} if config.layer_decay == 1 else _depths(model)
    for name, parameter in model.named_parameters():
        position = name.endswith("position") and not config.decay_positions
        decayed = parameter.ndim > 1 and not position
        key = (name.startswith("backbone."), depths.get(parameter, 0), decayed)
        groups.setdefault(key, []).append(parameter)
    return groups


def group_names(model: nn.Module, config: OptimConfig) -> list[str]:
    """What the groups of `parameter_groups` are called, in their order; those of one rate alike.

    `head`, `backbone`, or with `layer_decay` `backbone-1` for its last block, and so on.
    """
    return [
        "head" if not backbone else f"backbone-{depth}" if depth else "backbone"
        for backbone, depth, _ in _groups(model, config)
    ]


def noted(optimizer: torch.optim.Optimizer, names: Sequence[str]) -> dict[str, Any]:
    """The rates of an optimiser's groups, if they are not all the same, and its gradients' norm.

    The norm is a tensor on their device, which nobody waits for here.
    """
    rates = dict(zip(names, (group["lr"] for group in optimizer.param_groups), strict=True))
    found: dict[str, Any] = {}
    if len(set(rates.values())) > 1:
        found = {f"lr/{name}": rate for name, rate in rates.items()}
    gradients = [
        p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None
    ]
    return {**found, "train/grad_norm": nn.utils.get_total_norm(gradients)}


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
        both: score val with the weights themselves too.
    """

    def __init__(self, decay: float, start_step: int, both: bool = False) -> None:
        super().__init__()
        self.decay, self.start_step, self.both = decay, start_step, both
        self._pairs: dict[bool, tuple[list[torch.Tensor], list[torch.Tensor]]] = {}

    def on_train_epoch_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Look the tensors up again: once an epoch, because that takes longer than averaging."""
        self._pairs.clear()

    def on_validation_epoch_start(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule"
    ) -> None:
        """Exchange the two, and hand over the network that now has the weights themselves."""
        super().on_validation_epoch_start(trainer, pl_module)
        average = average_of(self)
        if self.both and average is not None:
            pl_module.raw = [average.model.eval()]  # type: ignore[assignment,union-attr]

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
