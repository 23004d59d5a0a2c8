"""Checkpoints: whole or not at all, named by what they hold, and found again.

The name of a file says all that is needed to choose among them:
`epoch=0003-step=00000896-top1=0.6412.ckpt`, without `top1` when it was saved inside an epoch.
This module alone decides which checkpoint is the newest and which is the best.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities.rank_zero import rank_zero_warn

from pattlite_dist.errors import UserError
from pattlite_dist.files import atomic_write, load_tensors
from pattlite_dist.train.logs import log_this_step

_NAME = re.compile(r"^epoch=(\d+)-step=(\d+)(?:-top1=(\d\.\d+))?\.ckpt$")


class Found(NamedTuple):
    """A checkpoint as its file name tells it; `top1` is -1 where val was not scored."""

    step: int
    top1: float
    epoch: int
    name: str


def parse_name(name: str) -> Found | None:
    """Read a file name; None if it is not a checkpoint's."""
    match = _NAME.match(name)
    if match is None:
        return None
    return Found(int(match[2]), float(match[3] or -1), int(match[1]), name)


def make_name(epoch: int, step: int, top1: float | None) -> str:
    """The file name of a checkpoint."""
    score = "" if top1 is None else f"-top1={top1:.4f}"
    return f"epoch={epoch:04d}-step={step:08d}{score}.ckpt"


def superfluous(names: list[str], keep_best: int) -> list[str]:
    """Names to remove: all but the newest and the `keep_best` best (of equals, the earlier)."""
    found = _parsed(names)
    if not found:
        return []
    kept = {max(found).name, *(item.name for item in _ranked(found)[:keep_best])}
    return sorted(item.name for item in found if item.name not in kept)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint without ever running code from it.

    Raises:
        UserError: it is missing, cut off, or not a checkpoint of this package.
    """
    content = load_tensors(path)
    if not isinstance(content, dict) or not {"state_dict", "pattlite"} <= content.keys():
        raise UserError(f"{path} is not a checkpoint of pattlite_dist; give one from a run folder")
    return content


def newest(folder: Path) -> Path | None:
    """The whole checkpoint of the highest step; a damaged newer one is left out with a warning."""
    for item in sorted(_listed(folder), reverse=True):
        try:
            load(folder / item.name)
        except UserError as error:
            rank_zero_warn(f"skipped: {error}")
        else:
            return folder / item.name
    return None


def best(folder: Path) -> Path:
    """The checkpoint with the highest accuracy on val, of equals the earlier; else the newest.

    Raises:
        UserError: there is none.
    """
    found = _listed(folder)
    if not found:
        raise UserError(f"{folder} holds no checkpoint; train first")
    return folder / (_ranked(found) or [max(found)])[0].name


def _parsed(names: list[str]) -> list[Found]:
    return [item for item in map(parse_name, names) if item is not None]


def _ranked(found: list[Found]) -> list[Found]:
    """Those scored on val, the best first, of equals the earlier."""
    scored = [item for item in found if item.top1 >= 0]
    return sorted(scored, key=lambda item: (-item.top1, item.step))


def _listed(folder: Path) -> list[Found]:
    return _parsed([path.name for path in folder.glob("*.ckpt")])


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the final name, then renames: a checkpoint that has its name is whole."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write `checkpoint` to `path`, a local file."""
        with atomic_write(Path(path)) as stream:
            torch.save(checkpoint, stream)


class Checkpoints(Checkpoint):
    """Saves after each epoch and every so many steps; keeps the newest and the best.

    Args:
        folder: where they lie.
        every_steps: also save after so many steps; 0 saves after epochs only.
        keep_best: how many of the best on val to keep.
    """

    def __init__(self, folder: Path, every_steps: int, keep_best: int) -> None:
        self.folder, self.every_steps, self.keep_best = folder, every_steps, keep_best

    def on_train_batch_end(
        self,
        trainer: "pl.Trainer",
        pl_module: "pl.LightningModule",
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save inside the epoch. Its last step is left to the epoch's end, after validation."""
        due = self.every_steps and trainer.global_step % self.every_steps == 0
        if due and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            log_this_step(trainer)
            self._save(trainer, None)

    def on_train_epoch_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Save with the score on val."""
        self._save(trainer, float(trainer.callback_metrics["val/top1"]))

    def _save(self, trainer: "pl.Trainer", top1: float | None) -> None:
        name = make_name(trainer.current_epoch, trainer.global_step, top1)
        trainer.save_checkpoint(self.folder / name)  # on all ranks; ends in a barrier
        if trainer.is_global_zero:
            names = [path.name for path in self.folder.glob("*.ckpt")]
            for old in superfluous(names, self.keep_best):
                (self.folder / old).unlink(missing_ok=True)
