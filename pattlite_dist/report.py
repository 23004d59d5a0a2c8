"""Pictures of a run: its curves and its confusion matrices."""

import io
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pattlite_dist.files import atomic_write
from pattlite_dist.metrics import Result
from pattlite_dist.train.record import read_metrics


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=150)
    with atomic_write(path) as out:
        out.write(stream.getvalue())


def draw_confusion(results: dict[str, Result], labels: list[str], path: Path) -> None:
    """One panel a split: the rate in colour and per cent, the count below it."""
    figure = Figure(figsize=(5.4 * len(results) + 0.6, 5.6), layout="constrained")
    axes: Any = figure.subplots(1, len(results), squeeze=False)[0]
    image = None
    for axis, (split, result) in zip(axes, results.items(), strict=True):
        image = _confusion_panel(axis, result, labels)
        axis.set_title(
            f"{split.replace('_', ' ')}: top-1 {result.top1:.1%}, macro-F1 {result.macro_f1:.1%} "
            f"(n = {result.samples:,})",
            fontsize=10,
        )
        axis.set_xlabel("predicted")
    axes[0].set_ylabel("true")
    if image is not None:
        figure.colorbar(image, ax=list(axes), fraction=0.02, label="share of the true class")
    save_figure(figure, path)


def _confusion_panel(axis: Axes, result: Result, labels: list[str]) -> Any:
    rates = [[count / max(sum(row), 1) for count in row] for row in result.confusion]
    image = axis.imshow(rates, cmap="Blues", vmin=0, vmax=1)
    for i, row in enumerate(result.confusion):
        for j, count in enumerate(row):
            dark = rates[i][j] > 0.55
            axis.text(
                j, i, f"{100 * rates[i][j]:.0f}%\n{count}",
                ha="center", va="center", fontsize=7.5, color="white" if dark else "#333333",
            )  # fmt: skip
    axis.set_xticks(range(len(labels)), labels, rotation=40, ha="right")
    axis.set_yticks(range(len(labels)), labels)
    return image


def draw_curves(run: Path) -> Path | None:
    """Draw loss, accuracy and learning rate over epochs from a run's `metrics.jsonl`.

    Returns:
        The picture's path, or None if nothing was logged yet.
    """
    lines = read_metrics(run / "metrics.jsonl")
    if not any("val/top1" in line for line in lines):
        return None
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
    path = run / "curves.png"
    save_figure(figure, path)
    return path


def _plot(axis: Axes, lines: list[dict[str, Any]], key: str, label: str, **style: Any) -> None:
    points = [(line["step"], line[key]) for line in lines if key in line]
    if points:
        steps, values = zip(*points, strict=True)
        axis.plot(steps, values, label=label, marker="." if len(points) < 3 else "", **style)
