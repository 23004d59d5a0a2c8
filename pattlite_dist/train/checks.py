"""What is wrong with a recipe, as far as its settings show: told before the first step."""

from pattlite_dist.config import Config


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
    if config.finetune.start_epoch is None or config.model.weights is not None:
        return None
    return (
        "finetune.start_epoch freezes the backbone, but without model.weights it is random; set "
        "model.weights (docs/weights.md says to what), finetune.start_epoch=null to train it too, "
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
