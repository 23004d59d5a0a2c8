"""What a start of training begins with: the newest checkpoint, or the weights of a new run."""

from pathlib import Path
from typing import Any

from pattlite_dist.config import Config
from pattlite_dist.errors import UserError
from pattlite_dist.logins import without_secrets
from pattlite_dist.model.build import MobileNetV2ViT, PattLite
from pattlite_dist.runtime.elastic import restarts
from pattlite_dist.shards.manifest import Manifest
from pattlite_dist.tracking import crashes
from pattlite_dist.tracking.history import read
from pattlite_dist.train import checkpoint as checkpoints
from pattlite_dist.train.checks import check_recipe
from pattlite_dist.train.initial import initialise
from pattlite_dist.train.names import parse_name
from pattlite_dist.train.teachers import Lesson, check_sources


def continues_from(
    config: Config, run: Path, manifest: Manifest, lesson: Lesson | None = None
) -> Path | None:
    """The checkpoint that a run continues from; None if there is none.

    Raises:
        UserError: it was trained on other shards than those of the manifest, or learned from other
            files.
    """

    def check(content: dict[str, Any], path: Path) -> None:
        where = without_secrets(config.data.shards)
        fix = "give data.shards the place of those, or set name to start a new run"
        checkpoints.check_shards(content, path, manifest.fingerprint(), where, fix)
        check_sources(content, path, lesson)

    return checkpoints.newest(run / "checkpoints", check)


def step_of(found: Path | None) -> int:
    """The steps that a checkpoint holds; 0 without one."""
    place = found and parse_name(found.name)
    return place.step if place else 0


def is_scored(found: Path | None) -> bool:
    """Whether a checkpoint was scored on val, as each is that is saved when an epoch is over."""
    place = parse_name(found.name) if found else None
    return place is not None and place.top1 >= 0


def check_progress(run: Path, found: Path | None) -> None:
    """Check that a run which torchrun starts again and again gets on.

    Raises:
        UserError: it does not; the message says why each start failed.
    """
    if restarts() < crashes.MOST:
        return
    reasons = crashes.starts_in_vain(read(run), step_of(found))
    over = crashes.given_up(reasons)
    if over is not None:
        raise UserError(f"{over}; fix this and run the same command again")


def begin(config: Config, model: PattLite | MobileNetV2ViT, manifest: Manifest) -> str:
    """Check the recipe of a new run, and load what it begins with; returns what to say of it.

    Raises:
        UserError: the recipe makes no sense, or the weights do not fit.
    """
    for line in check_recipe(config):
        raise UserError(line)
    return initialise(model, config.model.weights, manifest.labels, config)
