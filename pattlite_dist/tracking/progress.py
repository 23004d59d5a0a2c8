"""What a run shows of its progress: plain lines in a log, and on a terminal also a bar."""

import contextlib
import datetime
import sys
import time
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from pattlite_dist.console import Progress, show_progress
from pattlite_dist.tracking.logs import JsonlLogger
from pattlite_dist.tracking.parts import APART, PARTS
from pattlite_dist.tracking.record import best_on_val, read_metrics


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
    """The line of each epoch, and below it a bar, which begins where a resumed run does.

    Below the bar is what is known of the run, without asking the GPU for anything.
    """

    def __init__(self) -> None:
        super().__init__()
        self._bar = contextlib.ExitStack()
        self._report: Progress = lambda what, done, total: None
        self._trainer: pl.Trainer | None = None
        self._started = (0.0, 0)  # when, and at which step
        self._best: float | None = None

    def on_train_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Show the bar, on one rank."""
        super().on_train_start(trainer, pl_module)
        if trainer.is_global_zero:
            self._trainer, self._started = trainer, (time.monotonic(), trainer.global_step)
            for logger in _records(trainer):
                best = best_on_val(read_metrics(logger.path))
                self._best = None if best is None else best["val/top1"]
            self._report = self._bar.enter_context(show_progress(True, self._line))

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

    def on_train_epoch_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Print the result of the epoch, and remember the best."""
        super().on_train_epoch_end(trainer, pl_module)
        self._best = max(float(trainer.callback_metrics["val/top1"]), self._best or 0.0)

    def _line(self) -> str:
        trainer = self._trainer
        if trainer is None:
            return ""
        [record] = _records(trainer)
        begin, first = self._started
        taken = trainer.global_step - first
        left = None
        if taken and trainer.max_epochs is not None:
            whole = int(trainer.num_training_batches) * trainer.max_epochs
            left = (time.monotonic() - begin) / taken * max(whole - trainer.global_step, 0)
        return state_line(record.latest, trainer.global_step, self._best, left, _gigabytes(trainer))

    def on_train_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Remove the bar."""
        self._bar.close()

    def on_exception(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", exception: BaseException
    ) -> None:
        """Remove the bar, so that what is said of the error stands alone."""
        self._bar.close()


def state_line(
    known: Mapping[str, Any],
    step: int,
    best: float | None = None,
    left: float | None = None,
    gigabytes: float | None = None,
) -> str:
    """What is known of a run, on one line.

    Args:
        known: the newest value of each metric.
        step: number of steps taken.
        best: the best val top-1 so far, 0-1.
        left: seconds until the run ends.
        gigabytes: the most memory of the GPU that tensors have taken.
    """
    words = [f"step {step:,}"]
    if "train/loss" in known:
        words.append(f"loss {known['train/loss']:.4f}")
    times = [known.get(f"time/{part}", 0.0) for part in PARTS if part not in APART]
    if sum(times):
        words.append(f"data wait {100 * known['time/data'] / sum(times):.0f} %")
    if "val/top1" in known:
        words.append(f"val {100 * known['val/top1']:.2f} %")
    if best is not None:
        words.append(f"best {100 * best:.2f} %")
    if gigabytes is not None:
        words.append(f"GPU {gigabytes:.1f} GB")
    if left is not None:
        words.append(f"{datetime.timedelta(seconds=round(left))} left in all")
    return ", ".join(words)


def _records(trainer: "pl.Trainer") -> list[JsonlLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, JsonlLogger)]


def _gigabytes(trainer: "pl.Trainer") -> float | None:
    device = trainer.strategy.root_device
    return torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None


def progress_callback() -> PlainProgress:
    """Plain lines; on a terminal also a bar."""
    return BarProgress() if sys.stdout.isatty() and sys.stderr.isatty() else PlainProgress()
