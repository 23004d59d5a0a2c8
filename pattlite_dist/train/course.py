"""How far a run goes: to its last epoch, until val stops improving, or as its minutes allow."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from pattlite_dist.runtime.world import World, from_main
from pattlite_dist.tracking import history
from pattlite_dist.train.pace import (
    Change,
    as_scheduled,
    best_epoch,
    changed,
    epochs_that_fit,
    progress,
)
from pattlite_dist.train.settings import TrainerConfig


class Course(Callback):
    """Decides at the end of each epoch, before it is saved, whether there is another.

    All that it decides by is in the checkpoints, whether or not a limit is set: so a run that was
    killed goes as far as one that was not, and a limit may be set, raised or lifted later. Rank 0's
    clock counts. Lightning's EarlyStopping would train one epoch more after a kill at the end of
    the last one, and would continue with the patience that it began with.

    Args:
        run: folder.
        config: of the trainer.
        world: which rank this is.
        steps_per_epoch: the same on every rank.
        clock: seconds since any moment.
    """

    def __init__(
        self,
        run: Path,
        config: TrainerConfig,
        world: World,
        steps_per_epoch: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.run, self.config, self.world, self.clock = run, config, world, clock
        self.steps, self.total = steps_per_epoch, config.epochs * steps_per_epoch
        self.reason: str | None = None  # why the run ends before the last epoch
        self.changes: list[Change] = []  # of the schedule
        self._scores: list[tuple[int, float]] = []  # the step at an epoch's end, val top-1
        self._durations: list[float] = []  # of epochs, seconds
        self._ended = self._before = 0.0  # training time at the last epoch's end, of earlier starts
        self._begin, self._saves, self._saving = clock(), False, 0.0

    def scheduled(self, step: int) -> float:
        """The step of the unshortened schedule whose learning rate a step of the run has."""
        return as_scheduled(step, self.total, self.changes)

    @property
    def epochs(self) -> int:
        """How many epochs the schedule now has."""
        return (self.changes[-1].end if self.changes else self.total) // self.steps

    def on_train_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Continue as decided; at an epoch's end, decide again: what allows may have changed."""
        if self._scores and self._scores[-1][0] == trainer.global_step:
            self._decide(trainer)
        elif self.changes:
            self._go_to(trainer, self.epochs)
        if self.changes and self.reason is None:
            self._tell()

    def on_train_epoch_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Note how long the last epoch's checkpoint took."""
        if self._saves:
            self._saving = max(self._saving, self._elapsed() - self._ended)
        self._saves = False

    def on_train_epoch_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Note the epoch's score and duration, and decide."""
        now = self._elapsed()
        self._scores.append((trainer.global_step, float(trainer.callback_metrics["val/top1"])))
        self._durations.append(now - self._ended)
        self._ended, self._saves = now, True
        before = self.epochs
        self._decide(trainer)
        if self.epochs != before and self.reason is None:
            self._tell()

    def state_dict(self) -> dict[str, Any]:
        """All that decisions depend on, as plain numbers."""
        return {
            "scores": [list(score) for score in self._scores],
            "durations": list(self._durations),
            "seconds": self._elapsed(),
            "ended": self._ended,
            "saving": self._saving,
            "changes": [list(change) for change in self.changes],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint's state; those of earlier versions have none."""
        self._scores = [(int(step), float(score)) for step, score in state_dict["scores"]]
        self._durations = [float(seconds) for seconds in state_dict["durations"]]
        self._before, self._ended = float(state_dict["seconds"]), float(state_dict["ended"])
        self._saving = float(state_dict["saving"])
        self.changes = [Change(int(s), float(p), int(e)) for s, p, e in state_dict["changes"]]

    def _elapsed(self) -> float:
        """Seconds of training, over all starts; what a kill has undone does not count."""
        return self._before + self.clock() - self._begin

    def _decide(self, trainer: "pl.Trainer") -> None:
        step = trainer.global_step
        done = step // self.steps
        if done >= self.config.epochs:
            return
        self.reason = self._no_better() or self._out_of_time(step, done)
        self._go_to(trainer, self.epochs if self.reason is None else done)

    def _no_better(self) -> str | None:
        patience = self.config.patience
        best = best_epoch([score for _, score in self._scores], self.config.min_delta)
        if patience is None or len(self._scores) - 1 - best < patience:
            return None
        return f"no better val top-1 since epoch {self._scores[best][0] // self.steps}"

    def _out_of_time(self, step: int, done: int) -> str | None:
        """Shorten or lengthen the schedule to what fits; returns why there is no other epoch."""
        limit = self.config.max_minutes
        if limit is None and not self.changes:
            return None
        passed = progress(step, self.total, self.changes)
        if passed == 1:  # the learning rate is where it was to end
            return f"the schedule has ended with epoch {done}"
        most = self.config.epochs
        if limit is not None:
            fit = epochs_that_fit(self._durations, self._elapsed(), self._saving, 60 * limit)
            most = min(most, done + int(from_main(self.world, fit)))
        if most == done:
            return f"{limit:g} minutes are over, at {100 * passed:.0f} % of the schedule"
        self.changes = changed(step, most * self.steps, self.total, self.changes)
        return None

    def _go_to(self, trainer: "pl.Trainer", epochs: int) -> None:
        trainer.fit_loop.max_epochs = epochs

    def _tell(self) -> None:
        if self.world.main:
            limit = self.config.max_minutes
            why = "" if limit is None else f", which fit in trainer.max_minutes {limit:g}"
            print(
                f"{self.run}: the schedule ends after {self.epochs} of {self.config.epochs} "
                f"epochs{why}",
                flush=True,
            )
            history.append(self.run, "planned", epochs=self.epochs)
