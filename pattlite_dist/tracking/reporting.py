"""A run's page, `report.html`, kept up to date while it trains: by a process of its own."""

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from pattlite_dist.tracking.record import REPORT_NAME

_EVERY = 300.0  # seconds, at least
_LONGEST = 120.0  # seconds that the last one may take
_NICE = 10  # where all cores are busy, it gets a tenth of one
_started: dict[Path, "subprocess.Popen[str]"] = {}  # by run: the newest of this process


def installed() -> bool:
    """Whether the extra `report` is installed."""
    return all(importlib.util.find_spec(name) for name in ("altair", "vl_convert"))


def _command(run: Path) -> list[str]:
    return [sys.executable, "-m", "pattlite_dist", "report", str(run)]


def start_report(run: Path, nice: int) -> "subprocess.Popen[str]":
    """Start to write a run's report, without a GPU.

    Args:
        run: folder.
        nice: 0 for this process's own priority, 19 for the lowest.
    """
    root = str(Path(__file__).parents[2])  # the same code, wherever it was started from
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        _command(run),
        env={**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # a signal to the job is not for it: it ends by itself
    )
    os.setpriority(os.PRIO_PROCESS, process.pid, min(os.nice(0) + nice, 19))
    _started[run] = process
    return process


class Reports(Callback):
    """Writes a report when an epoch ends, at most every five minutes; no step waits for it.

    Training that takes less than five minutes writes none.

    Args:
        run: folder.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self._last = time.monotonic()

    def on_train_epoch_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Start to write one, if it is time and the one before is written."""
        now = time.monotonic()
        if now - self._last < _EVERY or self.busy():
            return
        self._last = now
        try:
            start_report(self.run, _NICE)
        except OSError as error:  # of memory, or processes: training goes on
            print(f"cannot write {self.run / REPORT_NAME}: {error}", file=sys.stderr, flush=True)

    def busy(self) -> bool:
        """Whether one is being written."""
        process = _started.get(self.run)
        return process is not None and process.poll() is None


def report_callbacks(run: Path, wanted: bool) -> list[Any]:
    """The callback, if it is wanted and can be had."""
    return [Reports(run)] if wanted and installed() else []


def finish_report(run: Path) -> None:
    """Bring a report that is there up to date with how the run has ended; says what goes wrong."""
    path = run / REPORT_NAME
    try:
        if run in _started:  # it would write what was so far
            _started[run].wait(_LONGEST)
        if not path.exists() or not installed():
            return
        process = start_report(run, 0)
        if process.wait(_LONGEST):
            print(f"cannot write {path}; see `pattlite report {run}`", file=sys.stderr, flush=True)
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"cannot write {path}: {error}", file=sys.stderr, flush=True)
