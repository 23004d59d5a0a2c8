"""What a run logs: `metrics.jsonl`."""

import contextlib
import errno
import json
import os
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from pattlite_dist.errors import UserError


class JsonlLogger(Logger):
    """Appends each set of metrics as one line of JSON: the run's own record, network or not.

    Lines that a full disk refuses are written with the next one; `flush` raises if any are left.

    Attributes:
        latest: the newest value of each metric, for those who show them.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.latest: dict[str, Any] = {}
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
        self.latest.update(metrics)
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
