"""The checkpoints of a run: written, replaced by newer and better ones, the best calibrated."""

import sys
import time
from pathlib import Path

import pytorch_lightning as pl

from pattlite_dist.errors import UserError
from pattlite_dist.runtime.world import World, from_main
from pattlite_dist.tracking.logs import JsonlLogger
from pattlite_dist.train.checkpoint import AtomicCheckpointIO, Unusable
from pattlite_dist.train.module import FERModule
from pattlite_dist.train.names import chosen, listed, make_name, parse_name, superfluous
from pattlite_dist.train.temperature import Calibration, Mark, save_calibration
from pattlite_dist.train.writing import Order


class Keeper:
    """Saves on rank 0, of which the others hear.

    Beside training, at most one checkpoint is being written; the next one waits for it. Whatever
    follows from a checkpoint happens once it is whole: those that it replaces are removed, and
    `calibration.json` names it.

    Attributes:
        io: writes the files.
        seconds: that training waited, in all.

    Args:
        run: folder.
        world: which rank this is.
        keep_best: number of checkpoints to keep, the best on val.
        beside: write beside training.
    """

    def __init__(self, run: Path, world: World, keep_best: int, beside: bool) -> None:
        self.run, self.folder, self.world = run, run / "checkpoints", world
        self.keep_best, self.beside = keep_best, beside
        self.io = AtomicCheckpointIO()
        self.seconds = self._longest = 0.0

    @property
    def slowest(self) -> float:
        """Seconds of the slowest checkpoint, waited for or written beside training."""
        return max(self._longest, self.io.slowest)

    def busy(self) -> bool:
        """Whether this rank is still writing a checkpoint."""
        return self.io.beside.busy

    def close(self) -> None:
        """Return when nothing is being written any more."""
        self.io.beside.wait()

    def last(self) -> Path | None:
        """The newest checkpoint that was saved, once nothing is being written. Collective."""
        self.close()
        found: Path | None = from_main(self.world, self.io.last)
        return found

    def save(self, trainer: "pl.Trainer", top1: float | None, at_once: bool) -> UserError | None:
        """Save a checkpoint. Collective.

        Args:
            trainer: of the run.
            top1: val accuracy, if it was just scored.
            at_once: return when it is whole, or the error if it cannot be.

        Raises:
            Unusable: the weights are NaN or infinite; nothing was written.
        """
        begin = time.monotonic()
        self.close()  # which of them is the best depends on the one before
        path = self.folder / make_name(trainer.current_epoch, trainer.global_step, top1)
        failure: UserError | None = from_main(self.world, _write_record(trainer))
        if failure is None:
            fitted = self._calibration(trainer, path) if self.world.main else None
            order = Order(self.beside and not at_once, lambda error: self._written(error, fitted))
            trainer.save_checkpoint(path, storage_options=order)  # on all ranks; ends in a barrier
            failure = from_main(self.world, self.io.failure)
            if isinstance(failure, Unusable):
                raise failure
        elif self.world.main:
            self._written(failure, None)
        took = time.monotonic() - begin
        self.seconds += took
        self._longest = max(self._longest, took)
        return failure

    def _written(self, failure: UserError | None, fitted: Calibration | None) -> None:
        """What follows from a checkpoint that is whole now, or could not be written.

        Args:
            failure: of the latter.
            fitted: how the former is calibrated, if it is the best.
        """
        if failure is not None:
            print(f"not saved, training continues: {failure}", file=sys.stderr, flush=True)
            return
        for old in superfluous((p.name for p in self.folder.glob("*.ckpt")), self.keep_best):
            (self.folder / old).unlink(missing_ok=True)
        if fitted is not None:
            try:
                save_calibration(self.run, fitted)
            except Exception as error:  # nothing here is worth a training run
                _not_calibrated(error)

    def _calibration(self, trainer: "pl.Trainer", path: Path) -> Calibration | None:
        """How a checkpoint is calibrated that will be the best; never ends a run."""
        module, this = trainer.lightning_module, parse_name(path.name)
        assert this is not None
        if not isinstance(module, FERModule) or this.top1 < 0:
            return None
        if chosen([*listed(self.folder), this]) != this:
            return None
        try:
            return module.calibration(Mark(path.name, trainer.current_epoch, trainer.global_step))
        except Exception as error:  # as above
            _not_calibrated(error)
            return None


def _not_calibrated(error: Exception) -> None:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    print(f"not calibrated, training continues: {reason}", file=sys.stderr, flush=True)


def _write_record(trainer: "pl.Trainer") -> UserError | None:
    # A step in a checkpoint must also be in the record.
    try:
        for logger in trainer.loggers:
            if isinstance(logger, JsonlLogger):
                logger.flush()
    except UserError as error:
        return error
    return None
