"""The card's account of a training run: recipe, course, and how often test was looked at."""

import time
from collections.abc import Mapping
from typing import Any

import yaml

from pattlite_dist.config import Config, given_away, parse_written, to_tree
from pattlite_dist.evaluation.subject import Subject
from pattlite_dist.tracking.history import last_start, looks, read
from pattlite_dist.tracking.record import RECORD_NAME, read_metrics

_NOT_TOLD = ("version", "runs", "wandb")


def account(subject: Subject) -> list[str]:
    """Paragraphs in Markdown."""
    config = given_away(parse_written(subject.content["pattlite"]["config"], str(subject.path)))
    weights = config.model.weights
    began = "random weights" if weights in (None, "none") else f"the weights `{weights}`"
    trainer = config.trainer
    length = f"for {trainer.epochs} epochs"
    if trainer.max_minutes is not None:
        length = f"for as many of {trainer.epochs} epochs as fit in {trainer.max_minutes:g} minutes"
    averaged = ", its weights averaged over the steps" if config.optim.ema else ""
    told = [
        f"On train alone, from {began}, {length}, with the seed {config.seed}; epoch "
        f"{subject.content['epoch'] + 1} was chosen by its top-1 on val{averaged}."
    ]
    if not subject.exported:
        told += _course(subject)
    recipe = yaml.safe_dump(_differences(config), sort_keys=False)
    return [
        *told,
        "The configuration, where it differs from the defaults of this version (`pattlite train "
        "-c FILE`):",
        f"```yaml\n{recipe}```",
    ]


def _course(subject: Subject) -> list[str]:
    """What the run's folder says besides its checkpoint; nothing if this lies elsewhere."""
    lines = read_metrics(subject.run / RECORD_NAME)
    curve = [f"{100 * line['val/top1']:.1f}" for line in lines if "val/top1" in line]
    told = [f"Top-1 on val by epoch, %: {', '.join(curve)}."] if curve else []
    events = read(subject.run)
    facts = last_start(events)
    if versions := facts.get("versions"):
        named = ", ".join(f"{name} {version}" for name, version in versions.items())
        told.append(f"Trained with {named}, on {facts.get('ranks')} x {facts.get('device')}.")
    if seen := looks(events):
        days = ", ".join(time.strftime("%Y-%m-%d", time.gmtime(one["time"])) for one in seen)
        told.append(f"Looks at test with checkpoints of this run: {len(seen)} ({days}).")
    return told


def _differences(config: Config) -> dict[str, Any]:
    plain = to_tree(Config())
    tree = {key: value for key, value in to_tree(config).items() if key not in _NOT_TOLD}
    return _differing(tree, plain)


def _differing(tree: Mapping[str, Any], plain: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            if part := _differing(value, plain[key]):
                found[key] = part
        elif value != plain[key]:
            found[key] = value
    return found
