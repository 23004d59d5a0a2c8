"""One start of a run in a separate process, as far as W&B and the record are concerned.

    python -m tests.tracking.wandb_start RUN FIRST LAST [key=value ...]

takes steps FIRST to LAST - 1 after rewinding the record to FIRST. Keys: those of the
configuration's `wandb`; with `kill=1`, it dies at the end with all processes of wandb, as when a
node fails; `clock=T` makes it start at that time, seconds since 1970; with `test=SCORE`, an
evaluation follows and adds that to the summary.
"""

import os
import signal
import sys
import time
from pathlib import Path

from pattlite_dist.config import Config
from pattlite_dist.tracking.folder import prepare_folder
from pattlite_dist.tracking.logs import JsonlLogger
from pattlite_dist.tracking.record import RECORD_NAME
from pattlite_dist.tracking.wandb_run import add_to_summary, wandb_logger


def kill_all() -> None:
    """Kill the children of this process, then itself."""
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(entry.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it ended meanwhile
            continue
        if parent == os.getpid():
            os.kill(int(entry.parent.name), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def start(run: Path, first: int, last: int, options: dict[str, str]) -> None:
    kill, clock, test = (options.pop(name, None) for name in ("kill", "clock", "test"))
    if clock is not None:
        time.time = lambda: float(clock)
    config = Config.model_validate({"name": run.name, "wandb": {"mode": "offline", **options}})
    prepare_folder(config, run, first)
    logger = wandb_logger(config, run, main=True)
    assert logger is not None
    record = JsonlLogger(run / RECORD_NAME)
    for step in range(first, last):
        for each in (record, logger):
            each.log_metrics({"train/loss": 1 / (step + 1), "epoch": step // 4}, step)
    if kill:
        kill_all()
    logger.experiment.finish()
    if test is not None:
        add_to_summary(config, run, {"best/test_top1": float(test)})


if __name__ == "__main__":
    start(
        Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]),
        dict(text.split("=", 1) for text in sys.argv[4:]),
    )  # fmt: skip
