"""What a run logs: `metrics.jsonl`, and plain progress lines."""

import contextlib
import errno
import json
import os
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from pattlite_dist.console import Progress, show_progress
from pattlite_dist.errors import UserError


class JsonlLogger(Logger):
    """Appends each set of metrics as one line of JSON: the run's own record, network or not.

    Lines that a full disk refuses are written with the next one; `flush` raises if any are left.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._last: dict[str, Any] = {}
        self._waiting: list[str] = []

    @property
    def name(self) -> str:
        """The record's name."""
        return "metrics"

    @property
    def version(self) -> str:
        """Empty: there is one record per run."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Append one line, unless it repeats the last one."""
        epoch = metrics.get("epoch")
        line = {
            "step": step,
            **({} if epoch is None else {"epoch": int(epoch)}),
            **{key: value for key, value in metrics.items() if key != "epoch"},
        }
        if line == self._last:
            return
        self._last = dict(line)
        line["time"] = round(time.time(), 3)
        self._waiting.append(json.dumps(line) + "\n")
        with contextlib.suppress(UserError):
            self.flush()

    def flush(self) -> None:
        """Write the pending lines.

        Raises:
            UserError: they cannot be written.
        """
        if not self._waiting:
            return
        data = "".join(self._waiting).encode()
        whole: int | None = None
        try:
            # Unbuffered, so that an error is raised here and not on close, when some of the lines
            # may already be on the disk.
            with self.path.open("ab", buffering=0) as stream:
                whole = stream.tell()
                if stream.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            if whole is not None:
                os.truncate(self.path, whole)
            raise UserError(
                f"cannot write {self.path}: {error.strerror}; free some space"
            ) from error
        self._waiting.clear()

    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Do nothing: `config.yaml` holds them."""


def log_before_saving(
    trainer: "pl.Trainer", names: Sequence[str], step: int, leaving: bool = False
) -> None:
    """Write what has just been logged, before a checkpoint that includes its step.

    Lightning calls its loggers only after the hooks in which one can save: a kill or a stop in
    between would leave a checkpoint whose last step is not in the record.

    Args:
        trainer: whose metrics and loggers.
        names: of the metrics that belong in the line.
        step: that Lightning would write with them.
        leaving: log to the other loggers too, because Lightning will not get to it.
    """
    values = trainer.callback_metrics
    metrics = {str(name): float(values[name]) for name in names if name in values}
    if not metrics:
        return
    metrics["epoch"] = trainer.current_epoch
    for logger in trainer.loggers:
        if leaving or isinstance(logger, JsonlLogger):
            logger.log_metrics(metrics, step)


class PlainProgress(Callback):
    """One line per epoch, and one per minute within it: for log files."""

    def __init__(self) -> None:
        self._begin = self._last = 0.0
        self._first_step = 0

    def on_train_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Start the clock: a run resumed inside an epoch does not start a new one."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Start the epoch's clock."""
        self._begin = self._last = time.monotonic()
        self._first_step = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: "pl.Trainer",
        pl_module: "pl.LightningModule",
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Print the progress of the epoch, once a minute."""
        now = time.monotonic()
        if now - self._last >= 60:
            self._last = now
            self._say(trainer, f"batch {batch_idx + 1}/{trainer.num_training_batches}")

    def on_train_epoch_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Print the result of the epoch."""
        metrics = trainer.callback_metrics
        self._say(
            trainer,
            f"val top-1 {100 * float(metrics['val/top1']):.2f} %, "
            f"macro-F1 {100 * float(metrics['val/macro_f1']):.2f} %",
        )

    def _say(self, trainer: "pl.Trainer", what: str) -> None:
        if trainer.is_global_zero:
            seconds = time.monotonic() - self._begin
            steps = trainer.global_step - self._first_step
            size = trainer.datamodule.config.trainer.global_batch  # type: ignore[attr-defined]
            # A run resumed inside a validation has taken no step yet.
            loss = trainer.callback_metrics.get("train/loss")
            print(
                f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}, "
                f"step {trainer.global_step}: "
                f"{'' if loss is None else f'loss {float(loss):.4f}, '}{what} "
                f"({seconds:.0f} s, {steps * size / max(seconds, 1e-9):.0f} images/s)",
                flush=True,
            )


class BarProgress(PlainProgress):
    """The line of each epoch, and below it a bar, which begins where a resumed run does."""

    def __init__(self) -> None:
        super().__init__()
        self._bar = contextlib.ExitStack()
        self._report: Progress = lambda what, done, total: None

    def on_train_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Show the bar, on one rank."""
        super().on_train_start(trainer, pl_module)
        if trainer.is_global_zero:
            self._report = self._bar.enter_context(show_progress(latest=True))

    def on_train_batch_end(
        self,
        trainer: "pl.Trainer",
        pl_module: "pl.LightningModule",
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Move the bar."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        size, total = data.config.trainer.global_batch, data.manifest.samples("train")
        total = min(int(trainer.num_training_batches) * size, total)  # tail=drop leaves some out
        what = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        self._report(what, min((batch_idx + 1) * size, total), total)

    def on_validation_batch_end(
        self,
        trainer: "pl.Trainer",
        pl_module: "pl.LightningModule",
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Move the bar of the validation."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        size = data.config.trainer.eval_batch * trainer.world_size
        total = data.manifest.samples("val")
        self._report("val", min((batch_idx + 1) * size, total), total)

    def on_train_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Remove the bar."""
        self._bar.close()

    def on_exception(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", exception: BaseException
    ) -> None:
        """Remove the bar, so that what is said of the error stands alone."""
        self._bar.close()


def progress_callback() -> PlainProgress:
    """Plain lines; on a terminal also a bar."""
    return BarProgress() if sys.stdout.isatty() and sys.stderr.isatty() else PlainProgress()
