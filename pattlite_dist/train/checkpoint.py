"""Checkpoint files: written whole or not at all, read without running code, found again."""

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities.rank_zero import rank_zero_warn

from pattlite_dist.compat.torch import COMPILED
from pattlite_dist.errors import UserError
from pattlite_dist.files import atomic_write, load_tensors
from pattlite_dist.train.names import listed, parse_name, ranked


class Unusable(UserError):
    """Weights that are NaN or infinite, or about to be: nobody should save or score them."""


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint without ever running code from it.

    What wrapped the network when it was saved (`torch.compile`, DDP) is taken out of the names.

    Raises:
        UserError: it is missing, cut off, not a checkpoint of this package, or holds weights that
            are NaN or infinite.
    """
    content: dict[str, Any] = load_tensors(path)
    if not _is_ours(content):
        raise UserError(f"{path} is not a checkpoint of pattlite_dist; give one from a run folder")
    for key in _STATES & content.keys():
        content[key] = unwrapped(content[key], path)
    bad = not_finite(content)
    if bad is not None:
        raise Unusable(f"{path} holds NaN or infinite values in {bad}; use an earlier checkpoint")
    return content


_STATES = {"state_dict", "current_model_state"}  # the latter where the former is an average
_WRAPPERS = {COMPILED, "module"}


def _is_ours(content: Any) -> bool:
    try:
        about, state = content["pattlite"], content["state_dict"]
        counted = isinstance(content["epoch"], int) and isinstance(content["global_step"], int)
        labels = isinstance(about["labels"], list) and isinstance(about["config"], dict)
        states = [state, content.get("current_model_state", {})]
        tensors = all(
            isinstance(name, str) and isinstance(value, torch.Tensor)
            for state in states
            for name, value in state.items()
        )
    except (TypeError, KeyError, AttributeError):
        return False
    return counted and labels and tensors


def unwrapped(state: dict[str, torch.Tensor], path: Path | str) -> dict[str, torch.Tensor]:
    """A network's state under the names that it has in a run: `model.`, then its own.

    Raises:
        UserError: two names become one.
    """
    named: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        parts = name.split(".")
        while len(parts) > 1 and parts[0] in {"model", *_WRAPPERS}:
            parts.pop(0)
        # A part of the network may have been compiled by itself.
        plain = ".".join(["model", *(part for part in parts if part != COMPILED)])
        if plain in named:
            raise UserError(f"{path} holds {plain} twice; use another checkpoint")
        named[plain] = value
    return named


def not_finite(content: dict[str, Any]) -> str | None:
    """The first of a checkpoint's weights that holds NaN or infinity; None where all is well."""
    tensors = [
        (name, value)
        for key in sorted(_STATES & content.keys())
        for name, value in content[key].items()
        if value.is_floating_point()
    ]
    if not tensors:
        return None
    # One question to the GPU, not one a tensor.
    good = torch.stack([value.isfinite().all() for _, value in tensors]).tolist()
    return next((name for (name, _), fine in zip(tensors, good, strict=True) if not fine), None)


def load_weights(model: torch.nn.Module, content: dict[str, Any], path: Path) -> None:
    """Load the weights of a checkpoint that `load` has read into a network.

    Raises:
        UserError: they are those of another network.
    """
    state = {name.removeprefix("model."): value for name, value in content["state_dict"].items()}
    check_fit(model, state, path)
    model.load_state_dict(state)


def check_fit(model: torch.nn.Module, state: dict[str, torch.Tensor], path: Path | str) -> None:
    """Make sure that a state has the names and shapes of a network's own.

    Raises:
        UserError: it does not; names the first difference of each kind.
    """
    own = {name: list(value.shape) for name, value in model.state_dict().items()}
    given = {name: list(value.shape) for name, value in state.items()}
    differences = [
        *[f"{name} is missing" for name in own if name not in given][:1],
        *[f"{name} is not in the network" for name in given if name not in own][:1],
        *[
            f"{name} has the shape {given[name]}, the network {own[name]}"
            for name in own
            if name in given and own[name] != given[name]
        ][:1],
    ]
    if differences:
        raise UserError(
            f"{path} does not fit the network of its configuration ({'; '.join(differences)}); "
            "use another one"
        )


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
        """Write `checkpoint` to `path`, a local file, unless its weights are NaN or infinite."""
        self.failure = None
        bad = not_finite(checkpoint)
        if bad is not None:
            self.failure = Unusable(f"not saved, {bad} holds NaN or infinite values")
            return
        try:
            with atomic_write(Path(path)) as stream:
                torch.save(checkpoint, stream)
        except UserError as error:
            self.failure = error
        except RuntimeError as error:  # torch's writer, where the disk is full
            reason = str(error).splitlines()[0]
            self.failure = UserError(f"cannot write {path}: is the disk full? ({reason})")
