"""What a run leaves to read: `metrics.jsonl`, plain progress lines, one Weights & Biases run."""

import json
import netrc
import os
import secrets
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, RichProgressBar
from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from pattlite_dist.config import Config, WandbConfig
from pattlite_dist.errors import UserError
from pattlite_dist.files import write_text


class JsonlLogger(Logger):
    """Appends each set of metrics as one line of JSON: the run's own record, network or not."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._last: dict[str, Any] = {}

    @property
    def name(self) -> str:
        """The record's name."""
        return "metrics"

    @property
    def version(self) -> str:
        """There is one record a run."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append one line, unless it says what the last one said."""
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
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")

    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Nothing: `config.yaml` holds them."""


def log_this_step(trainer: "pl.Trainer") -> None:
    """Write the line of the step that has just been taken, before a checkpoint of it is saved.

    Lightning tells its loggers of a step only after the hooks in which one can save: a kill in
    between would leave a checkpoint whose last step is not in the record.
    """
    if trainer.global_step % trainer.log_every_n_steps:  # type: ignore[attr-defined]
        return
    values, names = trainer.callback_metrics, ("train/loss", "train/lr")
    metrics = {str(name): float(values[name]) for name in names if name in values}
    metrics["epoch"] = trainer.current_epoch
    for logger in trainer.loggers:
        if isinstance(logger, JsonlLogger):
            logger.log_metrics(metrics, trainer.global_step - 1)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`; a last line cut off by a crash is left out."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def rewind_metrics(path: Path, step: int) -> None:
    """Forget the lines of steps that a resumed run will take again."""
    if path.exists():
        kept = [line for line in read_metrics(path) if line["step"] < step]
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))


class PlainProgress(Callback):
    """One line an epoch, and one a minute inside it: for log files."""

    def __init__(self) -> None:
        self._begin = self._last = 0.0
        self._first_step = 0

    def on_train_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Start the clock: a run resumed inside an epoch begins with no new epoch."""
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
        """Say where an epoch stands, once a minute."""
        now = time.monotonic()
        if now - self._last >= 60:
            self._last = now
            self._say(trainer, f"batch {batch_idx + 1}/{trainer.num_training_batches}")

    def on_train_epoch_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Say how an epoch ended."""
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
            print(
                f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}, "
                f"step {trainer.global_step}: "
                f"loss {float(trainer.callback_metrics['train/loss']):.4f}, {what} "
                f"({seconds:.0f} s, {steps * size / max(seconds, 1e-9):.0f} images/s)",
                flush=True,
            )


def progress_callback() -> Callback:
    """A bar on a terminal, plain lines elsewhere."""
    return RichProgressBar() if sys.stdout.isatty() else PlainProgress()


def wandb_mode(wanted: str) -> str:
    """online, offline or disabled: `auto` is online where there is a login, else offline."""
    if wanted != "auto":
        return wanted
    if os.environ.get("WANDB_MODE") in ("online", "offline", "disabled"):
        return os.environ["WANDB_MODE"]
    return "online" if os.environ.get("WANDB_API_KEY") or _has_netrc_login() else "offline"


def _has_netrc_login() -> bool:
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _run_id(folder: Path) -> str:
    """The run's id, kept beside its files so that every restart continues the same run."""
    path = folder / "run-id.txt"
    if not path.exists():
        write_text(path, secrets.token_hex(4) + "\n")
    return path.read_text(encoding="utf-8").strip()


def wandb_logger(config: Config, run: Path, main: bool) -> WandbLogger | None:
    """Lightning's Weights & Biases logger, all of its files inside the run folder.

    Returns None where it is disabled, and on all ranks but the first.

    Raises:
        UserError: online was asked for without a login.
    """
    settings: WandbConfig = config.wandb
    mode = wandb_mode(settings.mode)
    if mode == "disabled" or not main:
        return None
    if mode == "online" and not (os.environ.get("WANDB_API_KEY") or _has_netrc_login()):
        raise UserError("wandb.mode is online without a login; run `wandb login` or use offline")
    folder = run / "wandb"
    for name in ("CACHE", "CONFIG", "DATA", "ARTIFACT"):  # else they fill the home folder's quota
        os.environ.setdefault(f"WANDB_{name}_DIR", str(folder / name.lower()))
    import wandb

    experiment = wandb.init(
        name=config.name,
        id=_run_id(folder),
        project=settings.project,
        entity=settings.entity,
        group=settings.group,
        dir=str(run),
        mode="offline" if mode == "offline" else "online",
        resume="allow" if mode == "online" else None,  # offline, W&B joins segments by their id
        settings=wandb.Settings(silent=True, console="off"),
        config=config.model_dump(mode="json"),
    )
    return WandbLogger(experiment=experiment, save_dir=str(run))
