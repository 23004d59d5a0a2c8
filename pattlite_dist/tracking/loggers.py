"""TensorBoard and CSV: copies of the run's record for those who read them.

Both follow the record when steps are repeated: TensorBoard is told to forget what it had of them,
and the CSV file is written anew.
"""

import csv
import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from pattlite_dist.errors import UserError
from pattlite_dist.files import write_text
from pattlite_dist.tracking.record import RECORD_NAME, read_metrics, scalars
from pattlite_dist.tracking.settings import TrackingConfig

if TYPE_CHECKING:
    from pytorch_lightning.loggers import TensorBoardLogger

TENSORBOARD_FOLDER = "tensorboard"
CSV_NAME = "metrics.csv"
_FLUSH = 30  # seconds; what a kill may lose, the next start has in the record
_UNSURE = 60.0


def require_loggers(wanted: Sequence[str]) -> None:
    """Check that what writes them is installed.

    Raises:
        UserError: it is not.
    """
    if "tensorboard" in wanted and importlib.util.find_spec("tensorboard") is None:
        raise UserError(
            "tracking.loggers has tensorboard, which is not installed: "
            "pip install 'pattlite_dist[tensorboard]', or leave it out"
        )


def tensorboard_logger(config: TrackingConfig, run: Path, main: bool) -> "TensorBoardLogger | None":
    """Lightning's, in the run's folder; continues where the record does.

    Args:
        config: of tracking.
        run: folder.
        main: whether this is the rank that writes.
    """
    if not main or "tensorboard" not in config.loggers:
        return None
    from pytorch_lightning.loggers import TensorBoardLogger

    lines = read_metrics(run / RECORD_NAME)
    told = lines
    if (run / TENSORBOARD_FOLDER).exists() and lines:  # of the last minute, files may lack some
        since = max(line.get("time", 0.0) for line in lines) - _UNSURE
        first = min(line["step"] for line in lines if line.get("time", 0.0) >= since)
        told = [line for line in lines if line["step"] >= first]
    begin = min((line["step"] for line in told), default=0)
    logger = TensorBoardLogger(
        run, name="", version=TENSORBOARD_FOLDER, default_hp_metric=False,
        purge_step=begin, flush_secs=_FLUSH,
    )  # fmt: skip
    for line in told:
        for name, value in scalars(line).items():
            logger.experiment.add_scalar(name, value, line["step"], line.get("time"))
    return logger


def table_of(lines: Sequence[dict[str, Any]]) -> str:
    """A record as CSV: a row for each step, a column for each metric that is a number."""
    rows: dict[int, dict[str, Any]] = {}
    for line in lines:
        row = rows.setdefault(line["step"], {"step": line["step"]})
        row.update(scalars(line))
        row["time"] = line.get("time")
    names = sorted({name for row in rows.values() for name in row} - {"step", "epoch", "time"})
    out = io.StringIO()
    writer = csv.DictWriter(out, ["step", "epoch", "time", *names], lineterminator="\n")
    writer.writeheader()
    writer.writerows(row for _, row in sorted(rows.items()))
    return out.getvalue()


class CsvCopy(Callback):
    """Writes the record as CSV when an epoch has ended, and when the run ends or stops.

    Args:
        run: folder.
    """

    def __init__(self, run: Path) -> None:
        self.run = run

    def write(self) -> None:
        """Write it, whole or not at all; a full disk only leaves it as it is."""
        try:
            write_text(self.run / CSV_NAME, table_of(read_metrics(self.run / RECORD_NAME)))
        except UserError as error:
            print(f"{error}; training continues", flush=True)

    def on_train_epoch_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Of all epochs before."""
        self.write()

    def on_train_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Of the whole run."""
        self.write()

    def on_exception(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", exception: BaseException
    ) -> None:
        """Up to where it stops."""
        self.write()
