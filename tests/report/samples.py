"""Run folders as training and evaluation leave them, without training."""

import functools
import hashlib
import json
import math
import random
from pathlib import Path
from typing import Any
from unittest import mock

from pattlite_dist.config import Config, to_yaml
from pattlite_dist.evaluation.bootstrap import rates
from pattlite_dist.evaluation.predictions import Predictions, pack_predictions
from pattlite_dist.evaluation.schema import Bootstrap, Evaluation, PredictionsFile
from pattlite_dist.evaluation.scores import score
from pattlite_dist.files import write_text
from pattlite_dist.tracking.parts import PARTS, metrics_of
from tests.evaluation.samples import CLASSES, INDEPENDENT, predictions

BEGIN = 1_800_000_000.0
Event = dict[str, Any]
# By rank: of the eight parts of a step; the second rank finds the first one waiting.
_SECONDS = (
    (0.02, 0.05, 0.5, 0.3, 0.05, 0.0, 0.0, 0.03), (0.2, 0.05, 0.6, 0.02, 0.05, 0.01, 0.0, 0.02),
)  # fmt: skip


def write_run(
    folder: Path,
    epochs: int = 3,
    steps: int = 20,
    every: int = 1,
    seed: int = 0,
    events: list[Event] | None = None,
    **changes: Any,
) -> Path:
    """A run of a few epochs, of a second a step, with its configuration, history and record."""
    draw = random.Random(seed)
    config = Config.model_validate(
        {"name": folder.name, "runs": str(folder.parent), "seed": seed, **changes}
    )
    write_text(folder / "config.yaml", to_yaml(config))
    begun = [started(0, 0, steps, epochs)] if events is None else events
    write_lines(folder / "history.jsonl", begun)
    lines: list[dict[str, Any]] = []
    for step in range(epochs * steps):
        epoch, last = step // steps, (step + 1) % steps == 0
        if (step + 1) % every == 0:
            loss = 0.8 + math.exp(-step / (steps * epochs / 3)) + draw.gauss(0, 0.1)
            lines.append({"step": step, "epoch": epoch, "train/loss": loss, "train/lr": 1e-3,
                          "time": BEGIN + step + 1})  # fmt: skip
            table = [
                [1.0 if part == "validate" and epoch and not step % steps else seconds
                 for part, seconds in zip(PARTS, _SECONDS[rank], strict=True)]
                for rank in range(2)
            ]  # fmt: skip
            lines.append({"step": step, "epoch": epoch, "train/grad_norm": 2 + draw.random(),
                          **metrics_of(table, every, 64), "time": BEGIN + step + 1.1})  # fmt: skip
        if last:
            top1 = 0.7 - 0.4 * math.exp(-epoch / 5) + draw.gauss(0, 0.005)
            lines.append({"step": step, "epoch": epoch, "val/top1": top1,
                          "val/macro_f1": top1 - 0.05, "val/nll": 1.6 - top1,
                          "time": BEGIN + step + 1.5})  # fmt: skip
            lines.append({"step": step, "epoch": epoch, "train/top1": top1 + 0.02,
                          "time": BEGIN + step + 1.6})  # fmt: skip
    write_lines(folder / "metrics.jsonl", lines)
    return folder


def started(after: float, step: int, steps: int = 20, epochs: int = 3) -> Event:
    """A start of a run, some seconds after its first."""
    return {
        "event": "started", "time": BEGIN + after, "step": step, "steps_per_epoch": steps,
        "epochs": epochs, "device": "CPU", "ranks": 2, "host": "node1", "job": None,
    }  # fmt: skip


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))


def _around(confusion: Any) -> dict[str, tuple[float, float]]:
    """Intervals of made-up width; those of the bootstrap take seconds."""
    return {
        name: (value - 0.05, value + 0.05) for name, value in rates(confusion)._asdict().items()
    }


@functools.cache
def evaluated(samples: int = 300, manifest: str = "0" * 64) -> tuple[str, bytes]:
    """The evaluation.json and predictions.npz of a made-up network."""
    splits: dict[Any, Predictions] = {
        name: predictions(samples, seed) for seed, name in enumerate(("val", "test"))
    }
    packed = pack_predictions(CLASSES, splits)
    parts = {**splits, "test_clean": splits["test"].clean()}
    with mock.patch("pattlite_dist.evaluation.scores.intervals", _around):
        scores = {part: score(one, CLASSES) for part, one in parts.items()}
    found = Evaluation(
        created_by="tests", checkpoint="epoch=0002-step=00000060-top1=0.6000.ckpt", epoch=2,
        step=60, manifest=manifest, labels=CLASSES, views=["one"],
        splits=scores,
        independence=INDEPENDENT, bootstrap=Bootstrap(resamples=10000, seed=0, level=0.95),
        predictions=PredictionsFile(
            name="predictions.npz", sha256=hashlib.sha256(packed).hexdigest()
        ),
    )  # fmt: skip
    return found.model_dump_json(), packed


def evaluate(run: Path, *made_up: Any) -> Path:
    text, packed = evaluated(*made_up)
    write_text(run / "evaluation.json", text)
    (run / "predictions.npz").write_bytes(packed)
    return run
