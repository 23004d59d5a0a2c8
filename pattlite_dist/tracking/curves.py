"""A run's curves, drawn from its record whenever a start of it ends."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pattlite_dist.files import write_figure
from pattlite_dist.tracking.record import RECORD_NAME, read_metrics

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
    """Draw loss, accuracy and learning rate over epochs from the lines of a run's record."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    loss, accuracy, rate = figure.subplots(1, 3)
    _plot(loss, lines, "train/loss", "train (smoothed labels)", alpha=0.6, linewidth=0.8)
    _plot(loss, lines, "val/nll", "val")
    _plot(accuracy, lines, "train/top1", "train (augmented)")
    _plot(accuracy, lines, "val/top1", "val top-1")
    _plot(accuracy, lines, "val/macro_f1", "val macro-F1")
    _plot(rate, lines, "train/lr", "head")
    for axis, title in ((loss, "loss"), (accuracy, "accuracy"), (rate, "learning rate")):
        axis.set_title(title)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize=8)
    write_figure(figure, run / CURVES_NAME)


def _plot(axis: "Axes", lines: list[dict[str, Any]], key: str, label: str, **style: Any) -> None:
    points = [(line["step"], line[key]) for line in lines if key in line]
    if points:
        steps, values = zip(*points, strict=True)
        axis.plot(steps, values, label=label, marker="." if len(points) < 3 else "", **style)
