"""What a step of a run saw: its samples, augmented and mixed as they were, without training.

That is a function of the run's seed, epoch, step and global batch, whatever its number of ranks
and however often it was stopped. Losses are not: they depend on weights that nobody has kept.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pattlite_dist.config import Config
from pattlite_dist.data.fetch import fetch_manifest
from pattlite_dist.data.module import FERData, origin
from pattlite_dist.errors import UserError
from pattlite_dist.logins import without_secrets
from pattlite_dist.model.build import build_model, normalisation
from pattlite_dist.runtime.world import World
from pattlite_dist.tracking.folder import load_config
from pattlite_dist.tracking.history import last_start, read
from pattlite_dist.train import checkpoint as checkpoints
from pattlite_dist.train.names import listed
from pattlite_dist.train.trainer import build_preprocess


class Seen(NamedTuple):
    """A step.

    Attributes:
        epoch: from 0.
        step: of the epoch, from 0.
        ids: int64 [n], of the samples.
        images: uint8 [n, C, H, W], as the network saw them, but for the normalisation.
        labels: of each, with its share where several are mixed.
        counts: bool [n]; what does not count only fills the last batch of an epoch.
        shards: whose samples they are.
    """

    epoch: int
    step: int
    ids: NDArray[np.int64]
    images: NDArray[np.uint8]
    labels: list[str]
    counts: NDArray[np.bool_]
    shards: str


def replay(run: Path, step: int) -> Seen:
    """Make a step's batch again.

    Args:
        run: folder.
        step: of the run, from 0, as its record counts.

    Raises:
        UserError: it is no run, its shards are not those that it was trained on, or it has no such
            step.
    """
    import torch

    config = load_config(run)
    manifest = fetch_manifest(origin(config.data))
    known = last_start(read(run)).get("shards")
    if known not in (None, manifest.fingerprint()):
        raise UserError(
            f"{without_secrets(config.data.shards)} is not what {run} was trained on; put those "
            "shards back"
        )
    model = build_model(config.model, config.data.image_size, len(manifest.labels))
    data = FERData(config, World(), build_preprocess(config, model), manifest)
    plan = data.plan()
    if not 0 <= step < config.trainer.epochs * plan.steps:
        raise UserError(
            f"{run} has no step {step}: it has {config.trainer.epochs} epochs of {plan.steps} "
            f"steps, the first of which is 0"
        )
    data.config = _as_planned(run, config, step, plan.steps)
    epoch, within = divmod(step, plan.steps)
    with torch.inference_mode():
        batch = data.seen(epoch, within)
    data.close()
    mean, std = (
        np.array(values, np.float32).reshape(1, -1, 1, 1)
        for values in normalisation(config.augment, model)
    )
    levels = (batch["image"].numpy() * std + mean).clip(0, 1)
    size = len(levels)
    return Seen(
        epoch, within, batch["id"][:size].numpy(), np.rint(levels * 255).astype(np.uint8),
        _labels(batch, manifest.labels), batch["counts"][:size].numpy(), manifest.source.name,
    )  # fmt: skip


def _as_planned(run: Path, config: Config, step: int, steps: int) -> Config:
    """With the number of epochs that the run had planned by then; see `trainer.max_minutes`."""
    if not any(event["event"] == "planned" for event in read(run)):
        return config
    newest = max(listed(run / "checkpoints"), default=None)
    if newest is None:
        raise UserError(
            f"{run} was shortened while it was trained, and its checkpoints, which say when, are "
            "gone; put one back"
        )
    content = checkpoints.load(run / "checkpoints" / newest.name)
    changes = content["callbacks"]["Course"]["changes"]
    ends = [end for first, _, end in changes if first <= step]
    if not ends:
        return config
    trainer = config.trainer.model_copy(update={"epochs": int(ends[-1]) // steps})
    return config.model_copy(update={"trainer": trainer})


def _labels(batch: dict[str, Any], names: list[str]) -> list[str]:
    if "target" not in batch:
        return [names[label] for label in batch["label"].tolist()]
    found = []
    for shares in batch["target"].tolist():
        order = sorted(range(len(shares)), key=lambda place: -shares[place])
        parts = [(names[place], shares[place]) for place in order[:2] if shares[place] > 0]
        alone = len(parts) == 1 or parts[0][1] > 0.995
        found.append(
            parts[0][0] if alone else " + ".join(f"{name} {share:.2f}" for name, share in parts)
        )
    return found
