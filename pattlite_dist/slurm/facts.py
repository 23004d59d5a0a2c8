"""What run folders say about their runs, with or without SLURM: found, read and summed up."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pattlite_dist.errors import UserError
from pattlite_dist.tracking.folder import CONFIG_NAME, load_config
from pattlite_dist.tracking.history import HISTORY_NAME, Standing, read, standing
from pattlite_dist.tracking.nodes import excluded, natural
from pattlite_dist.tracking.parts import straggler
from pattlite_dist.tracking.record import RECORD_NAME, read_metrics
from pattlite_dist.train import names


class Facts(NamedTuple):
    """What a run's folder says.

    Attributes:
        run: folder.
        standing: its history, summed up.
        steps: taken, according to the record.
        epoch: of the last step, from 1; 0 before the first.
        epochs: of the whole run.
        val_top1: the best so far, 0-1.
        test_top1: of `evaluation.json`, 0-1.
        test_of: the checkpoint that it is of, if that is no longer the best on val.
        step_seconds: mean of the last start's last epoch, validation included where it holds one.
        seen: when record or history were last written to, seconds since 1970.
        straggler: the rank that the others wait for in the last start, if it costs much.
        excluded: nodes that its newest job does without, because they failed.
    """

    run: str
    standing: Standing = Standing()
    steps: int = 0
    epoch: int | None = None
    epochs: int | None = None
    val_top1: float | None = None
    test_top1: float | None = None
    test_of: str | None = None
    step_seconds: float | None = None
    seen: float | None = None
    straggler: str | None = None
    excluded: tuple[str, ...] = ()


def find_runs(folders: Iterable[Path]) -> list[Path]:
    """The run folders among these folders and one or two levels below them.

    Raises:
        UserError: one of them does not exist, or there is no run in it.
    """
    found: dict[Path, None] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder; give runs, sweeps, or folders of these")
        runs = _runs_in(folder, 2)
        if not runs:
            raise UserError(f"{folder} contains no run; give runs, sweeps, or folders of these")
        found.update(dict.fromkeys(runs))
    return list(found)


def _runs_in(folder: Path, levels: int) -> list[Path]:
    try:
        if (folder / CONFIG_NAME).exists() or (folder / HISTORY_NAME).exists():
            return [folder]
        below = [path for path in folder.iterdir() if path.is_dir()]
    except PermissionError:  # a colleague's
        return []
    below.sort(key=lambda path: natural(path.name))
    return [run for path in below if levels for run in _runs_in(path, levels - 1)]


def read_facts(run: Path) -> Facts:
    """Read a run's folder; what is missing or damaged in it is left unknown."""
    try:
        lines = read_metrics(run / RECORD_NAME)
    except (OSError, ValueError):
        lines = []
    events = read(run)
    facts = sum_up(str(run), standing(events), lines)
    top1, checkpoint = _test_top1(run)
    return facts._replace(
        excluded=tuple(excluded(events)),
        epochs=facts.epochs or _epochs(run),
        test_top1=top1,
        test_of=checkpoint if is_stale(checkpoint, run, facts.val_top1) else None,
    )


def is_stale(checkpoint: str | None, run: Path, val_top1: float | None) -> bool:
    """Whether a run has become another since a checkpoint of it was scored.

    Args:
        checkpoint: name of the one that was scored; None if there are no scores.
        run: folder.
        val_top1: the best so far, by which checkpoints are told apart where none is left.
    """
    if not isinstance(checkpoint, str):
        return False
    best = names.chosen(names.listed(run / "checkpoints"))
    if best is not None:
        return best.name != checkpoint
    was = names.parse_name(checkpoint)
    return was is not None and val_top1 is not None and abs(was.top1 - val_top1) > 1e-4


def sum_up(run: str, now: Standing, lines: Sequence[Any]) -> Facts:
    """Sum up a run's history and the lines of its record."""
    known = [line for line in lines if isinstance(line, dict) and isinstance(line.get("step"), int)]
    # The record counts steps from 0, and lags behind what a stop reports.
    steps = max([now.step, *(line["step"] + 1 for line in known)])
    begin = -math.inf if now.begin is None else now.begin
    slow = straggler([line for line in known if (_number(line.get("time")) or 0.0) >= begin])
    epochs = [line["epoch"] for line in known if isinstance(line.get("epoch"), int)]
    if not steps or now.steps_per_epoch:
        epoch: int | None = -(-steps // (now.steps_per_epoch or 1))
    else:
        epoch = epochs[-1] + 1 if epochs else None
    return Facts(
        run=run,
        standing=now,
        steps=steps,
        epoch=epoch,
        epochs=now.epochs,
        val_top1=max(_numbers(known, "val/top1"), default=None),
        step_seconds=step_seconds(known, now),
        seen=max([*_numbers(known, "time"), *([] if now.end is None else [now.end])], default=None),
        straggler=None if slow is None else str(slow),
    )


def step_seconds(lines: Sequence[Mapping[str, Any]], now: Standing) -> float | None:
    """Mean seconds of a step over an epoch's worth of the newest steps, since the last start."""
    begin = -math.inf if now.begin is None else now.begin
    points = [
        (line["step"], moment)
        for line in lines
        if (moment := _number(line.get("time"))) is not None and moment >= begin
    ]
    if now.steps_per_epoch:
        points = [point for point in points if point[0] >= points[-1][0] - now.steps_per_epoch]
    if not points or points[-1][0] <= points[0][0]:
        return None
    return max(points[-1][1] - points[0][1], 0.0) / float(points[-1][0] - points[0][0])


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _numbers(lines: Iterable[Mapping[str, Any]], key: str) -> list[float]:
    return [value for line in lines if (value := _number(line.get(key))) is not None]


def _epochs(run: Path) -> int | None:
    """From the configuration: the history of a run that was never started does not say."""
    try:
        return load_config(run).trainer.epochs
    except UserError:
        return None


def _test_top1(run: Path) -> tuple[float | None, str | None]:
    """Of `evaluation.json`: the score and the checkpoint that it is of."""
    try:
        content = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
        return _number(content["splits"]["test"]["top1"]), content.get("checkpoint")
    except (OSError, ValueError, LookupError, TypeError):
        return None, None
