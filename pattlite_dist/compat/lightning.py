"""Lightning's internals: signal handlers, loop counters, and averaged weights."""

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy

from pattlite_dist.compat.need import changed, find, find_function

_NAME = "pytorch-lightning"
_HANDLERS = "_signal_connector.register_signal_handlers"
_BROADCAST = "fit_loop.epoch_loop._broadcast_sigterm_tensor"
_STEPPED = "fit_loop.epoch_loop._batches_that_stepped"
_LAST = "fit_loop.epoch_loop.batch_progress.is_last_batch"
_RESET = "fit_loop.epoch_loop.val_loop.batch_progress.reset"
_TRAINED, _VALIDATED = "epoch_loop.batch_progress", "epoch_loop.val_loop.batch_progress"
_COUNTS = {"ready", "started", "processed", "completed"}


def check() -> None:
    """Check that everything this module uses exists, before a run is modified.

    Raises:
        UserError: it does not; names the installed and the supported versions.
    """
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, plugins=[LightningEnvironment()], barebones=True
    )
    for path in (_HANDLERS, _BROADCAST, _RESET):
        find_function(_NAME, trainer, path)
    if not isinstance(find(_NAME, trainer, _STEPPED), int):
        raise changed(_NAME, f"number `{_STEPPED}`")
    find(_NAME, trainer, _LAST)
    _check_layout(trainer.fit_loop.state_dict())
    find_function(_NAME, DDPStrategy, "configure_ddp")  # public, but replaced
    average = WeightAveraging()
    if average_of(average) is not None:
        raise changed(_NAME, "`WeightAveraging._average_model` that is None before a run")
    if not isinstance(find(_NAME, average, "_latest_update_step"), int):
        raise changed(_NAME, "number `WeightAveraging._latest_update_step`")


def _check_layout(fit: dict[str, Any]) -> None:
    """Check that a checkpoint's counters have the layout that `begin_validation` writes."""
    for name in (_TRAINED, _VALIDATED):
        progress = fit.get(name)
        if not isinstance(progress, dict) or not {"total", "current", "is_last_batch"} <= set(
            progress
        ):
            raise changed(_NAME, f"`{name}` among a checkpoint's counters")
        for part in ("total", "current"):
            if set(progress[part]) != _COUNTS:
                raise changed(_NAME, f"`{name}.{part}` among a checkpoint's counters")


def leave_signals_alone(trainer: pl.Trainer) -> None:
    """Keep Lightning from handling SIGTERM, which is left to `runtime.signals`.

    Lightning's handler starts a collective, and its loop broadcasts a flag through the device at
    every step; in 2.6.6 no option disables either.
    """
    find_function(_NAME, trainer, _HANDLERS)
    find_function(_NAME, trainer, _BROADCAST)
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]


def logged_step(trainer: pl.Trainer) -> int:
    """The step at which Lightning logs an epoch's metrics."""
    return int(find(_NAME, trainer, _STEPPED)) - 1


def is_last_batch(trainer: pl.Trainer) -> bool:
    """Whether the current training batch is the epoch's last."""
    return bool(find(_NAME, trainer, _LAST))


def restart_validation(trainer: pl.Trainer) -> None:
    """Count a validation's batches from zero, also in a run that was stopped during one.

    Otherwise Lightning would continue the count in the checkpoint, and treat the next validation
    as interrupted too.
    """
    find(_NAME, trainer, _RESET)()


def begin_validation(checkpoint: dict[str, Any]) -> None:
    """Set a checkpoint's counters to an epoch that is trained and whose validation has begun.

    The counters become those of a validation in its first batch. The ones that Lightning writes at
    an epoch's last step would make it skip that epoch's validation.
    """
    fit = checkpoint["loops"]["fit_loop"]
    _check_layout(fit)
    for count in (fit[_TRAINED]["total"], fit[_TRAINED]["current"]):
        count["completed"] = count["processed"]
    begun = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
    fit[_VALIDATED] = {
        "total": begun,
        "current": dict.fromkeys(begun, 0),
        "is_last_batch": False,
    }


def average_of(callback: WeightAveraging) -> torch.nn.Module | None:
    """The network of averaged weights; None before a run."""
    average = find(_NAME, callback, "_average_model")
    return None if average is None else average.module


def update_due(callback: WeightAveraging, step: int) -> bool:
    """Whether the average lacks this step; if so, it counts as included from now on."""
    if step <= find(_NAME, callback, "_latest_update_step"):
        return False
    callback._latest_update_step = step
    return True
