"""Notes what a run does, for those who watch whether it still does something."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from pattlite_dist.runtime.pulse import Phase, Pulse


class Phases(Callback):
    """Notes the beginning of each phase of training.

    Args:
        pulse: of this rank.
    """

    def __init__(self, pulse: Pulse) -> None:
        self.pulse = pulse

    def _begin(self, phase: Phase, trainer: pl.Trainer) -> None:
        self.pulse.begin(phase, trainer.global_step)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The first batch of an epoch is waited for."""
        self._begin("data", trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """A step begins."""
        self._begin("step", trainer)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """The next batch is waited for."""
        self._begin("data", trainer)

    def on_validation_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """A step of a validation begins."""
        self._begin("validation", trainer)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """The next batch is waited for."""
        self._begin("data", trainer)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Scores are computed, drawn and told."""
        self._begin("epoch end", trainer)
