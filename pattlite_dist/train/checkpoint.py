"""Checkpoint files: written whole or not at all, read without running code, found again."""

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities.rank_zero import rank_zero_warn

from pattlite_dist.errors import UserError
from pattlite_dist.files import atomic_write, load_tensors
from pattlite_dist.train.names import listed, parse_name, ranked


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
    for item in sorted(listed(folder), reverse=True):
        try:
            load(folder / item.name)
        except UserError as error:
            rank_zero_warn(f"skipped: {error}")
        else:
            return folder / item.name
    return None


def set_aside(folder: Path, found: Path | None) -> None:
    """Rename what is newer than the checkpoint to continue from: it is damaged.

    Left there, it would pass for the newest, and those that are written next for superfluous.

    Args:
        folder: of checkpoints.
        found: by `newest`; None where all are damaged.
    """
    kept = None if found is None else parse_name(found.name)
    for item in listed(folder):
        if kept is None or item > kept:
            path = folder / item.name
            path.replace(path.with_name(f"{path.name}.damaged"))


def best(folder: Path) -> Path:
    """The checkpoint with the highest accuracy on val, of equals the earlier; else the newest.

    Raises:
        UserError: there is none.
    """
    found = listed(folder)
    if not found:
        raise UserError(f"{folder} holds no checkpoint; train first")
    return folder / (ranked(found) or [max(found)])[0].name


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the final name, then renames: a checkpoint that has its name is whole.

    Lightning calls this on rank 0 while the other ranks wait for it, so that an error raised here
    would leave them waiting; `failure` keeps it for whoever asked to save.
    """

    failure: UserError | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write `checkpoint` to `path`, a local file."""
        self.failure = None
        try:
            with atomic_write(Path(path)) as stream:
                torch.save(checkpoint, stream)
        except UserError as error:
            self.failure = error
        except RuntimeError as error:  # torch's writer, where the disk is full
            reason = str(error).splitlines()[0]
            self.failure = UserError(f"cannot write {path}: is the disk full? ({reason})")
