"""A run's curves, drawn from its record whenever a start of it ends."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pattlite_dist.errors import UserError
from pattlite_dist.files import write_figure
from pattlite_dist.logins import without_secrets
from pattlite_dist.tracking.record import RECORD_NAME, best_on_val, read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVES_NAME = "curves.png"


def draw_what_is_new(run: Path) -> None:
    """Draw a run's curves if an epoch has ended since they were drawn.

    What goes wrong in that is only said: it must not hide how the run itself has ended.
    """
    try:
        lines, picture = read_metrics(run / RECORD_NAME), run / CURVES_NAME
        ended = max((line["time"] for line in lines if "val/top1" in line), default=None)
        if ended is not None and not (picture.exists() and picture.stat().st_mtime > ended):
            _draw(run, lines)
    except Exception as error:
        print(f"cannot draw {run / CURVES_NAME}: {error}", file=sys.stderr, flush=True)


def _draw(run: Path, lines: list[dict[str, Any]]) -> None:
    """Draw loss, accuracy and learning rates over steps and epochs, as PNG and SVG.

    All in one picture, and each in one of its own, which fits a column of a paper.
    """
    from matplotlib.figure import Figure

    title, smoothing, averaged = _known(run)
    panels = _panels(lines, smoothing, averaged)
    best = best_on_val(lines)
    assert best is not None  # nothing is drawn before the first validation
    together = Figure(figsize=(11, 4.1), layout="constrained")
    together.suptitle(title, fontsize=11)
    for axis, (name, plots) in zip(together.subplots(1, 3), panels.items(), strict=True):
        _draw_panel(axis, name, plots, lines, best)
        alone = Figure(figsize=(3.5, 2.9), layout="constrained")
        alone.suptitle(title, fontsize=8)
        _draw_panel(alone.subplots(), name, plots, lines, best)
        _write(alone, run / f"curves-{name.replace(' ', '-')}")
    _write(together, run / CURVES_NAME)


def _panels(
    lines: list[dict[str, Any]], smoothing: float, averaged: bool
) -> dict[str, list[tuple[str, str]]]:
    """By title, the keys of the record that are drawn, each with its label."""
    targets = f"train (labels smoothed by {smoothing:g})" if smoothing else "train"
    of = ", averaged weights" if averaged else ""
    groups = sorted({key for line in lines for key in line if key.startswith("lr/")})
    return {
        "loss": [("train/loss", targets), ("val/nll", f"val{of}")],
        "accuracy": [
            ("train/top1", "train top-1 (augmented)"),
            ("val/top1", f"val top-1{of}"),
            ("val/raw_top1", "val top-1, weights not averaged"),
            ("val/macro_f1", f"val macro-F1{of}"),
        ],
        "learning rate": [(key, key.removeprefix("lr/")) for key in groups]
        or [("train/lr", "all weights")],
    }


def _draw_panel(
    axis: "Axes",
    name: str,
    plots: list[tuple[str, str]],
    lines: list[dict[str, Any]],
    best: Mapping[str, Any],
) -> None:
    for key, label in plots:
        style: dict[str, Any] = {"alpha": 0.6, "linewidth": 0.8} if key == "train/loss" else {}
        _plot(axis, lines, key, label, **style)
    per_epoch = (best["step"] + 1) / (best["epoch"] + 1) if "epoch" in best else None
    chosen = "chosen" if per_epoch is None else f"chosen: epoch {best['epoch'] + 1}"
    axis.set_title(name, fontsize=9)
    axis.set_xlabel("step", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3)
    axis.axvline(best["step"] + 1, color="#555555", linestyle=":", linewidth=1, label=chosen)
    if per_epoch is not None:
        scale = (lambda x: x / per_epoch, lambda x: x * per_epoch)
        upper = axis.secondary_xaxis("top", functions=scale)
        upper.set_xlabel("epoch", fontsize=8)
        upper.tick_params(labelsize=8)
    axis.legend(fontsize=7)


def _write(figure: Any, path: Path) -> None:
    for suffix in (".png", ".svg"):
        write_figure(figure, path.with_suffix(suffix))


def _known(run: Path) -> tuple[str, float, bool]:
    """A title, the smoothing of labels, and whether val is of averaged weights."""
    from pattlite_dist.tracking.folder import load_config

    try:
        config = load_config(run)
    except UserError:
        return run.resolve().name, 0.0, False
    shards = without_secrets(config.data.shards).rstrip("/").rpartition("/")[2]
    title = f"{run.resolve().name} on {shards}".replace("$", r"\$")
    return title, config.optim.label_smoothing, bool(config.optim.ema)


def _plot(axis: "Axes", lines: list[dict[str, Any]], key: str, label: str, **style: Any) -> None:
    points = [(line["step"] + 1, line[key]) for line in lines if key in line]
    if points:
        steps, values = zip(*points, strict=True)
        axis.plot(steps, values, label=label, marker="." if len(points) < 3 else "", **style)
