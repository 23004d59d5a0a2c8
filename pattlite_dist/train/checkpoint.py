"""Checkpoint files: written atomically, loaded without running code, found by name."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities.rank_zero import rank_zero_warn

from pattlite_dist.compat.torch import COMPILED
from pattlite_dist.errors import Unreachable, UserError
from pattlite_dist.files import atomic_write, load_tensors
from pattlite_dist.stores import tried_again
from pattlite_dist.train.names import chosen, listed, parse_name
from pattlite_dist.train.writing import Beside, Order, Then, copied


class Unusable(UserError):
    """Weights that are NaN or infinite, or about to be; they must not be saved or scored."""


def load(path: Path) -> dict[str, Any]:
    """Load a checkpoint without running code from it.

    Prefixes left by wrappers (`torch.compile`, DDP) are removed from the parameter names.

    Raises:
        UserError: the file is missing, truncated, not a checkpoint of this package, or contains
            NaN or infinite weights.
        Unreachable: its file system does not answer.
    """
    content = tried_again(lambda: load_tensors(path), _RETRIES, (Unreachable,), str)
    if not is_ours(content):
        raise UserError(f"{path} is not a pattlite_dist checkpoint; use one from a run folder")
    return checked(content, path)


def checked(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """A checkpoint's content with plain names.

    Raises:
        UserError: it has NaN or infinite weights, or two of one name.
    """
    for key in _STATES & content.keys():
        content[key] = unwrapped(content[key], path)
    bad = not_finite(content)
    if bad is not None:
        raise Unusable(f"{path} has NaN or infinite values in {bad}; use an earlier checkpoint")
    return content


_STATES = {"state_dict", "current_model_state"}  # the latter if the former is an average
_WRAPPERS = {COMPILED, "module"}
_RETRIES = 4


def is_ours(content: Any) -> bool:
    """Whether what a file contains is a checkpoint of this package."""
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
    """A network's state with the names used in a run: `model.` plus the network's own names.

    Raises:
        UserError: two names map to the same one.
    """
    named: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        parts = name.split(".")
        while len(parts) > 1 and parts[0] in {"model", *_WRAPPERS}:
            parts.pop(0)
        # A submodule may have been compiled separately.
        plain = ".".join(["model", *(part for part in parts if part != COMPILED)])
        if plain in named:
            raise UserError(f"{path} contains {plain} twice; use another checkpoint")
        named[plain] = value
    return named


def shards_of(content: dict[str, Any]) -> str | None:
    """The fingerprint of the shards that a checkpoint was trained on; None if it does not say."""
    said = content["pattlite"].get("shards")
    if said is None:  # earlier versions only saved it with the position in the data
        try:
            said = content["loops"]["fit_loop"]["state_dict"]["combined_loader"][0]["manifest"]
        except (LookupError, TypeError):
            return None
    return str(said)


def check_shards(content: dict[str, Any], path: Path, now: str, where: str, fix: str) -> None:
    """Check that shards are those that a checkpoint was trained on, wherever they are now.

    Args:
        content: of the checkpoint.
        path: of the checkpoint.
        now: fingerprint of the shards.
        where: they are.
        fix: what the user can do.

    Raises:
        UserError: they are others.
    """
    before = shards_of(content)
    if before is not None and before != now:
        raise UserError(
            f"{path.name} was trained on other shards than those in {where} "
            f"(fingerprint {before[:8]}, now {now[:8]}): what is val or test here may be train "
            f"there; {fix}"
        )


def not_finite(content: dict[str, Any]) -> str | None:
    """The name of the first weight with NaN or infinite values; None if all are finite."""
    tensors = [
        (name, value)
        for key in sorted(_STATES & content.keys())
        for name, value in content[key].items()
        if value.is_floating_point()
    ]
    if not tensors:
        return None
    # One synchronisation with the GPU, not one per tensor.
    good = torch.stack([value.isfinite().all() for _, value in tensors]).tolist()
    return next((name for (name, _), fine in zip(tensors, good, strict=True) if not fine), None)


def load_weights(model: torch.nn.Module, content: dict[str, Any], path: Path) -> None:
    """Copy the weights of a checkpoint returned by `load` into a network.

    Raises:
        UserError: the weights belong to a different network.
    """
    state = {name.removeprefix("model."): value for name, value in content["state_dict"].items()}
    check_fit(model, state, path)
    model.load_state_dict(state)


def check_fit(model: torch.nn.Module, state: dict[str, torch.Tensor], path: Path | str) -> None:
    """Check that a state dict has the same names and shapes as a network's.

    Raises:
        UserError: it does not; the message names the first difference of each kind.
    """
    own = {name: list(value.shape) for name, value in model.state_dict().items()}
    given = {name: list(value.shape) for name, value in state.items()}
    differences = [
        *[f"{name} is missing" for name in own if name not in given][:1],
        *[f"{name} is not in the network" for name in given if name not in own][:1],
        *[
            f"{name} has shape {given[name]}, the network {own[name]}"
            for name in own
            if name in given and own[name] != given[name]
        ][:1],
    ]
    if differences:
        raise UserError(
            f"{path} does not fit the network of its configuration ({'; '.join(differences)}); "
            "use another checkpoint"
        )


def newest(
    folder: Path, check: Callable[[dict[str, Any], Path], None] = lambda content, path: None
) -> Path | None:
    """The valid checkpoint with the highest step; damaged newer ones are skipped with a warning.

    Args:
        folder: of the checkpoints.
        check: called with the content and path of the one that is found; what it raises is raised.
    """
    for item in sorted(listed(folder), reverse=True):
        path = folder / item.name
        try:
            content = load(path)
        except UserError as error:
            rank_zero_warn(f"skipped: {error}")
        else:
            check(content, path)
            return path
    return None


def set_aside(folder: Path, found: Path | None) -> None:
    """Rename the checkpoints newer than the one to continue from: they are damaged.

    Otherwise they would count as the newest, and the next ones written as superfluous.

    Args:
        folder: of the checkpoints.
        found: result of `newest`; None if all are damaged.
    """
    kept = None if found is None else parse_name(found.name)
    for item in listed(folder):
        if kept is None or item > kept:
            path = folder / item.name
            path.replace(path.with_name(f"{path.name}.damaged"))


def best(folder: Path) -> Path:
    """The checkpoint with the highest val accuracy (earliest if tied); without scores, the newest.

    Raises:
        UserError: the folder has no checkpoint.
    """
    found = chosen(listed(folder))
    if found is None:
        raise UserError(f"no checkpoint in {folder}; train first")
    return folder / found.name


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes to a temporary file, then renames it: a file with a checkpoint's name is complete.

    Lightning calls this on rank 0 while the other ranks wait, so an error raised here would leave
    them waiting; it is stored in `failure` for the caller instead.

    Attributes:
        failure: of the last checkpoint, once it is written.
        last: the newest file that this process wrote; it is whole.
        slowest: seconds that the longest took to be written.
    """

    def __init__(self) -> None:
        super().__init__()
        self.failure: UserError | None = None
        self.last: Path | None = None
        self.slowest = 0.0
        self.beside = Beside()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Order | None = None
    ) -> None:
        """Write `checkpoint` to the local file `path`, unless its weights are NaN or infinite.

        Args:
            checkpoint: its content.
            path: of the file.
            storage_options: whether to return before it is written; None: after.
        """
        order = storage_options or Order()
        self.beside.wait()
        self.failure = None
        bad = not_finite(checkpoint)
        if bad is not None:
            self.failure = Unusable(f"not saved, {bad} has NaN or infinite values")
        elif order.beside:
            content = copied(checkpoint)
            self.beside.begin(lambda: self._write(content, Path(path), order.then))
        else:
            self._write(checkpoint, Path(path), order.then)

    def _write(self, content: dict[str, Any], path: Path, then: Then) -> None:
        begin = time.monotonic()
        try:
            with atomic_write(path) as stream:
                torch.save(content, stream)
            self.last = path
        except UserError as error:
            self.failure = error
        except RuntimeError as error:  # raised by torch's writer if the disk is full
            reason = str(error).splitlines()[0]
            self.failure = UserError(f"cannot write {path}: is the disk full? ({reason})")
        self.slowest = max(self.slowest, time.monotonic() - begin)
        then(self.failure)
