"""What is wrong with a recipe, as far as its settings show: told before the first step."""

import math
from collections.abc import Iterable

from pattlite_dist.config import Config
from pattlite_dist.train.rates import ema_decay, lr_scale, warmup_steps

_LEFT = 0.1  # of the weights that an average began with, at its end: more is told
_L2 = 0.01  # a weight decay from here on is meant to be decoupled from the gradient
_ADAM = 0.03  # rates from here on are SGD's


def check_recipe(config: Config) -> list[str]:
    """One line for each setting that would spoil a new run; runs that exist go on as they are."""
    found = [
        _frozen_at_random(config),
        _never_at_peak(config),
        _never_at_full_size(config),
        _never_at_full_strength(config),
    ]
    return [line for line in found if line is not None]


def _frozen_at_random(config: Config) -> str | None:
    if config.model.weights is not None:
        return None
    if config.finetune.start_epoch is not None:
        key, off = "finetune.start_epoch", "null"
    elif config.model.freeze:
        key, off = "model.freeze", "0"
    else:
        return None
    return (
        f"{key} freezes the backbone, but without model.weights it is random; set "
        f"model.weights (docs/weights.md says to what), {key}={off} to train it too, "
        "or model.weights=none if it is to stay random"
    )


def _never_at_peak(config: Config) -> str | None:
    optim, start, epochs = config.optim, config.finetune.start_epoch, config.trainer.epochs
    name, length = ("trainer.epochs", epochs) if start is None else ("finetune.start_epoch", start)
    if not length or optim.warmup_epochs < length:  # without a first stage there is no warm-up
        return None
    return (
        f"optim.warmup_epochs {optim.warmup_epochs:g} is not below {name} {length}, so the "
        "learning rate would not reach optim.lr before the end; lower optim.warmup_epochs"
    )


def _never_at_full_size(config: Config) -> str | None:
    epochs = config.trainer.epochs
    last = config.data.image_sizes[-1][0] if config.data.image_sizes else 0
    if last < epochs or not last:
        return None
    return (
        f"data.image_sizes begins data.image_size at epoch {last}, which trainer.epochs {epochs} "
        "does not reach; begin it earlier, or raise trainer.epochs"
    )


def _never_at_full_strength(config: Config) -> str | None:
    calm, epochs = config.augment.calm_epochs, config.trainer.epochs
    if not calm or calm < epochs:
        return None
    return (
        f"augment.calm_epochs {calm} is not below trainer.epochs {epochs}, so no epoch would be "
        "augmented in full; lower augment.calm_epochs"
    )


def remarks(config: Config, steps: int) -> list[str]:
    """One line for each setting of a new run that is allowed, but probably not meant.

    Args:
        config: of the run.
        steps: per epoch.
    """
    found = [
        *_without_effect(config),
        _decay_in_the_gradient(config),
        _rate_of_another(config),
        _backbone_at_rest(config),
        _average_of_the_start(config, steps),
    ]
    return [line for line in found if line is not None]


def _without_effect(config: Config) -> list[str]:
    optim, finetune = config.optim, config.finetune
    staged = finetune.start_epoch is not None
    of_others = ("momentum", "nesterov") if optim.name != "sgd" else ("betas", "eps")
    unused: list[tuple[str, str, Iterable[str]]] = [
        (f"with optim.name {optim.name}", "optim", of_others),
        *_without_decay_epochs("optim", optim.schedule),
        *(_without_decay_epochs("finetune", finetune.schedule) if staged else []),
    ]
    if optim.lr_rule == "none":
        unused.append(("with optim.lr_rule none", "optim", ["reference_batch"]))
    if not staged:
        unused.append(("without finetune.start_epoch", "finetune", type(finetune).model_fields))
    lines = []
    for reason, part, names in unused:
        given, default = getattr(config, part), getattr(Config(), part)
        changed = [
            f"{part}.{name}" for name in names if getattr(given, name) != getattr(default, name)
        ]
        if changed:
            lines.append(f"without effect {reason}: {', '.join(changed)}")
    return lines


def _without_decay_epochs(part: str, schedule: str) -> list[tuple[str, str, Iterable[str]]]:
    if schedule == "inverse_time":
        return []
    return [(f"with {part}.schedule {schedule}", part, ["decay_epochs"])]


def _decay_in_the_gradient(config: Config) -> str | None:
    optim = config.optim
    if optim.name == "adamw" or optim.weight_decay < _L2:
        return None
    return (
        f"optim.weight_decay {optim.weight_decay:g} is much for {optim.name}, which adds it to the "
        "gradient; 1e-5 to 1e-3 is usual, and values as this one for adamw"
    )


def _rate_of_another(config: Config) -> str | None:
    optim = config.optim
    peak = optim.lr * lr_scale(optim, config.trainer.global_batch)
    if optim.name == "sgd" or peak < _ADAM:
        return None
    return f"a learning rate of {peak:g} is much for {optim.name}; 1e-4 to 3e-3 is usual"


def _backbone_at_rest(config: Config) -> str | None:
    blocks = config.model.blocks
    if config.optim.backbone_lr_scale or config.model.freeze == blocks:
        return None
    return (
        "optim.backbone_lr_scale 0 trains no weight of the backbone, but computes their gradients, "
        f"and BatchNorm's statistics move; model.freeze={blocks} leaves out both"
    )


def _average_of_the_start(config: Config, steps: int) -> str | None:
    optim = config.optim
    if not optim.ema:
        return None
    decay = ema_decay(optim, config.trainer.global_batch)
    averaged = max(config.trainer.epochs * steps - warmup_steps(optim, steps), 1)
    left = decay**averaged
    if left <= _LEFT:
        return None
    enough = optim.ema ** (math.log(_LEFT) / (averaged * math.log(decay)))
    return (
        f"with optim.ema {optim.ema:g}, the average of {averaged:,} steps will still be "
        f"{left:.0%} of the weights that it began with; at most {enough:.4f} is short enough"
    )
