"""When a run saves and when it stops: the callback in which all ranks decide together."""

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint, WeightAveraging

from pattlite_dist.compat.lightning import (
    begin_validation,
    is_last_batch,
    logged_step,
    restart_validation,
)
from pattlite_dist.errors import UserError
from pattlite_dist.runtime.pulse import Pulse
from pattlite_dist.runtime.signals import Signals, Stopped
from pattlite_dist.runtime.world import Agreement, World
from pattlite_dist.tracking import history
from pattlite_dist.tracking.logs import log_before_saving
from pattlite_dist.train.checkpoint import Unusable
from pattlite_dist.train.clock import Clock
from pattlite_dist.train.decision import Decisions
from pattlite_dist.train.intervals import Intervals
from pattlite_dist.train.keeping import Keeper
from pattlite_dist.train.watch import NEVER, LossWatch


def _clock(module: "pl.LightningModule") -> Clock:
    clock = module.clock
    assert isinstance(clock, Clock)
    return clock


class Saver(Checkpoint):
    """Saves after each epoch, at intervals of steps and minutes, and on a signal to stop.

    Signals are only recorded; at the end of each step, and of each validation batch, the ranks
    agree on whether one of them was asked to stop. If so, they save once and raise `Stopped`.
    Likewise they agree on whether a loss is NaN or infinite, and then stop without saving.

    With several ranks a step does not wait for that: inside an epoch, what they ask each other at
    the end of a step is answered at the end of the next, and a signal costs one more step.

    Attributes:
        pulse: what this rank is doing.
        keeper: of the run's checkpoints.

    Args:
        run: folder.
        world: which rank this is.
        signals: received by this rank.
        agreement: between the ranks.
        every_steps: also save every this many steps; 0 for never.
        every_minutes: also save every this many minutes; 0 for never.
        keep_best: number of checkpoints to keep, the best on val.
        beside: write beside training, except where the run ends or stops.
    """

    def __init__(
        self,
        run: Path,
        world: World,
        signals: Signals,
        agreement: Agreement,
        every_steps: int,
        every_minutes: float,
        keep_best: int,
        beside: bool = False,
    ) -> None:
        self.run = run
        self.world, self.signals = world, signals
        self.intervals = Intervals(world)  # what is logged of the steps between two lines
        self.keeper = Keeper(run, world, keep_best, beside)
        self.decisions = Decisions(
            run / "checkpoints", world, signals, agreement, every_minutes, self.intervals.heard,
            self.keeper.busy, self.keeper.last,
        )  # fmt: skip
        self.every_steps = every_steps
        self.pulse = Pulse()
        self._first = self._first_validation = True
        self._validation_ahead = False

    def on_train_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Stop if a signal arrived while the run was being set up."""
        self._leave_if_asked(trainer)
        _clock(pl_module).start()

    def on_train_epoch_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Stop if a signal arrived while the last epoch was being saved."""
        self._leave_if_asked(trainer)

    def on_train_batch_end(
        self,
        trainer: "pl.Trainer",
        pl_module: "pl.LightningModule",
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save within the epoch if due; after an epoch's last step, validation comes first.

        Raises:
            Unusable: a loss is NaN or infinite; raised on all ranks.
        """
        step, clock = trainer.global_step, _clock(pl_module)
        clock.stepped()
        if self._first and self.world.main:
            history.append(self.run, "first_step", step=step)
        self._first = False
        last = is_last_batch(trainer)
        # Reading the loss waits for the GPU: done only when it is logged, and before saving.
        logged = step % trainer.log_every_n_steps == 0  # type: ignore[attr-defined]
        looks = logged or last or pl_module.device.type == "cpu"
        watch = pl_module.watch
        assert isinstance(watch, LossWatch)
        bad_step = watch.first() if looks else NEVER
        said = self.intervals.numbers(trainer, pl_module) if logged or last else []
        at_once = last or self.world.size == 1
        stop, due = self.decisions.now(bad_step, said) if at_once else self.decisions.earlier()
        if self.every_steps and step % self.every_steps == 0:
            due = True
        saves = stop or (due and not last)
        if not saves and not at_once:
            self.decisions.later(bad_step, said)
        if saves:
            if not at_once or not looks:  # a loss or a signal may be newer than the answer
                stop, _ = self.decisions.now(watch.first(), [] if at_once else said)
            if logged:
                log_before_saving(trainer, ("train/loss", "train/lr"), step - 1, bool(stop))
            self._validation_ahead = last
            self._save(trainer, None, at_once=bool(stop))
        if stop:
            self._leave(trainer, stop)
        next_ends = batch_idx + 2 == trainer.num_training_batches
        if next_ends or (step + 1) % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            clock.sample()

    def on_validation_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Count a validation's batches from zero, also in a run that was stopped during one.

        Otherwise Lightning would continue the count in the checkpoint, and treat the next
        validation as interrupted too.
        """
        restart_validation(trainer)
        if self._first_validation:  # loader processes may be forked now, better beside no thread
            self.keeper.close()
        self._first_validation = False
        _clock(pl_module).mark("rest")

    def on_validation_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Note how long it took."""
        _clock(pl_module).mark("validate")

    def on_validation_batch_end(
        self,
        trainer: "pl.Trainer",
        pl_module: "pl.LightningModule",
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop during a validation, which starts over when the run continues."""
        stop, _ = self.decisions.now()
        if not stop:
            return
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WeightAveraging):  # restores the trained weights
                callback.on_validation_epoch_end(trainer, pl_module)
        self._validation_ahead = True
        self._save(trainer, None, at_once=True)
        self._leave(trainer, stop)

    def on_train_epoch_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Save with the val score.

        Raises:
            UserError: training is complete but its last checkpoint could not be written.
        """
        log_before_saving(trainer, ("train/top1",), logged_step(trainer))
        last = trainer.current_epoch + 1 == trainer.max_epochs
        top1 = float(trainer.callback_metrics["val/top1"])
        failure = self._save(trainer, top1, at_once=last)
        if failure and last:
            raise UserError(f"{failure}; fix this and run the same command again")

    def on_save_checkpoint(
        self,
        trainer: "pl.Trainer",
        pl_module: "pl.LightningModule",
        checkpoint: dict[str, Any],
    ) -> None:
        """Set Lightning's own counters if the epoch is trained but not yet validated.

        The counters become those of a validation in its first batch. The ones that Lightning
        writes at an epoch's last step would make it skip that epoch's validation.
        """
        if self._validation_ahead:
            begin_validation(checkpoint)

    def wait_for_data(self, trainer: "pl.Trainer") -> None:
        """Called while this rank waits for data: stop, unsaved, if a signal arrived a while ago."""
        stop = self.decisions.without_data()
        if stop:
            self._leave(trainer, stop)

    def _leave_if_asked(self, trainer: "pl.Trainer") -> None:
        stop, _ = self.decisions.now()
        if stop:
            self._leave(trainer, stop)

    def _leave(self, trainer: "pl.Trainer", signum: int) -> None:
        last = self.keeper.last()
        noted = self.signals.noted or time.time()
        stop = Stopped(signum, trainer.global_step, last, noted, self.signals.ends)
        if self.world.main:
            saved = last and last.name
            history.append(
                self.run, "stopped", signal=stop.name, step=stop.step, noted=noted, saved=saved,
                save_seconds=round(self.keeper.slowest, 3),
            )  # fmt: skip
        raise stop

    def _save(self, trainer: "pl.Trainer", top1: float | None, at_once: bool) -> UserError | None:
        clock = _clock(trainer.lightning_module)
        with self.pulse.within("save", trainer.global_step):
            clock.mark("rest")
            took = -self.keeper.seconds
            try:
                failure = self.keeper.save(trainer, top1, at_once)
            except Unusable as error:
                advice = self.decisions.advice()
                raise Unusable(f"step {trainer.global_step:,}: {error}: {advice}") from None
            self.decisions.saved(took + self.keeper.seconds)
            clock.mark("save")
        return failure
