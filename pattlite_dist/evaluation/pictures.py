"""Pictures of an evaluation, fit for a paper and legible with any colour vision."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pattlite_dist.evaluation.predictions import Predictions
from pattlite_dist.evaluation.schema import Part, PartScores
from pattlite_dist.evaluation.scores import calibration, precision_recall
from pattlite_dist.files import write_figure
from pattlite_dist.shards.glyphs import unformatted
from pattlite_dist.train.temperature import BINS

# Okabe and Ito's colours are distinct with any colour vision, and the dashes in greyscale.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_DASHES = ("-", "--", "-.", ":", (0, (6, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 2)))
_SIDE = 4.6  # of a panel, inches
_FEW = 10  # samples; a share of fewer says little
COLUMNS, MISTAKES = 8, 32  # of the sheet
_LONGEST = 24  # characters below an image

Found = Mapping[Part, Predictions]
Scores = Mapping[Part, PartScores]


def draw_scores(
    run: Path, found: Found, scores: Scores, classes: Sequence[str], title: str = ""
) -> None:
    """Draw the scores of the view `one` into a run's folder, as PNG and SVG.

    Args:
        run: folder.
        found: predictions of each part.
        scores: of each part.
        classes: names.
        title: above each picture: what the scores are of.
    """
    for name, figure in (
        ("confusion", confusion(scores, classes)),
        ("reliability", reliability(found, scores)),
        ("precision_recall", recall_by_class(found, scores, classes)),
    ):
        if title:
            figure.suptitle(unformatted([title])[0], fontsize=9)
        for suffix in ("png", "svg"):
            write_figure(figure, run / f"{name}.{suffix}")


def _panels(scores: Scores, height: float) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(_SIDE * len(scores) + 0.6, height), layout="constrained")
    axes: Any = figure.subplots(1, len(scores), squeeze=False)[0]
    return figure, list(axes)


def _name(part: Part) -> str:
    return part.replace("_", " ")


def confusion(scores: Scores, classes: Sequence[str]) -> Figure:
    """One panel per part: the rate as colour and percentage, the count below it."""
    figure, axes = _panels(scores, 5.2)
    image: Any = None
    names = unformatted(classes)
    for axis, (part, found) in zip(axes, scores.items(), strict=True):
        counts = np.array(found.confusion)
        rates = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        image = axis.imshow(rates, cmap="Blues", vmin=0, vmax=1)
        for (i, j), count in np.ndenumerate(counts):
            shade = "white" if rates[i, j] > 0.55 else "#222222" if count else "#777777"
            axis.text(
                j, i, f"{100 * rates[i, j]:.0f}%\n{count:,}" if count else "0",
                ha="center", va="center", fontsize=7.5, color=shade,
            )  # fmt: skip
        axis.set_xticks(range(len(names)), names, rotation=40, ha="right")
        axis.set_yticks(range(len(names)), names)
        axis.set_xlabel("predicted")
        low, high = found.top1_interval
        axis.set_title(
            f"{_name(part)} (n = {found.samples:,})\n"
            f"top-1 {found.top1:.1%} [{low:.1%}, {high:.1%}], macro-F1 {found.macro_f1:.1%}",
            fontsize=10,
        )
    axes[0].set_ylabel("true")
    figure.colorbar(image, ax=axes, fraction=0.02, shrink=0.75, label="share of the true class")
    return figure


def reliability(found: Found, scores: Scores) -> Figure:
    """One panel per part: accuracy over confidence, and how many samples each bin has."""
    figure = Figure(figsize=(_SIDE * len(scores), 5.0), layout="constrained")
    grid: Any = figure.subplots(
        2, len(scores), squeeze=False, sharex=True, height_ratios=(3.2, 1), sharey="row"
    )
    edges = np.linspace(0, 1, BINS + 1)
    for (upper, lower), (part, one) in zip(grid.T, found.items(), strict=True):
        count, confidence, accuracy = calibration(one.probabilities["one"], one.labels)
        there = count > 0
        upper.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=1, label="calibrated")
        few = count < _FEW
        for kept, alpha, label in (
            (there & ~few, 1.0, "accuracy"),
            (there & few, 0.35, f"accuracy, of fewer than {_FEW} samples"),
        ):
            upper.bar(
                edges[:-1][kept], accuracy[kept], 1 / BINS, align="edge", color=COLOURS[4],
                alpha=alpha, edgecolor="white", linewidth=0.6, label=label,
            )  # fmt: skip
        upper.plot(
            confidence[there], confidence[there], linestyle="", marker="o", markersize=5,
            color=COLOURS[1], markeredgecolor="white", clip_on=False,
            label="mean confidence, and its gap to accuracy",
        )  # fmt: skip
        # The calibration error is the mean of the gaps between the two.
        upper.vlines(
            confidence[there], accuracy[there], confidence[there], COLOURS[1], linewidth=1.6
        )
        upper.set(xlim=(0, 1), ylim=(0, 1))
        upper.set_title(
            f"{_name(part)} (n = {len(one):,})\nECE {scores[part].ece:.1%}, "
            f"NLL {scores[part].nll:.3f}",
            fontsize=10,
        )
        lower.bar(edges[:-1], count / len(one), 1 / BINS, align="edge", color="#999999",
                  edgecolor="white", linewidth=0.6)  # fmt: skip
        lower.set_xlabel("confidence (highest probability)")
        for axis in (upper, lower):
            axis.grid(alpha=0.25)
            axis.set_axisbelow(True)
    grid[0, 0].set_ylabel("accuracy")
    grid[1, 0].set_ylabel("share")
    figure.legend(
        *grid[0, 0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=4
    )
    return figure


def recall_by_class(found: Found, scores: Scores, classes: Sequence[str]) -> Figure:
    """One panel per part: a precision-recall curve per class, with its average in the legend."""
    figure, axes = _panels(scores, 5.6)
    for axis, (part, one) in zip(axes, found.items(), strict=True):
        for number, (name, shown) in enumerate(zip(classes, unformatted(classes), strict=True)):
            average = scores[part].average_precision[name]
            if average is None:  # no sample of the class, so there is no recall
                continue
            precision, recall = precision_recall(one.probabilities["one"], one.labels, number)
            axis.step(
                recall, precision, where="post", linewidth=1.5,
                color=COLOURS[number % len(COLOURS)], linestyle=_DASHES[number % len(_DASHES)],
                label=f"{shown} {average:.2f}",
            )  # fmt: skip
        axis.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall")
        axis.set_title(f"{_name(part)} (n = {len(one):,})", fontsize=10)
        axis.grid(alpha=0.25)
        axis.legend(
            fontsize=7.5, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3,
            title="average precision", title_fontsize=7.5, handlelength=3.2,
        )  # fmt: skip
    axes[0].set_ylabel("precision")
    return figure


def draw_mistakes(
    run: Path,
    images: NDArray[np.uint8],
    worst: Predictions,
    classes: Sequence[str],
    title: str,
    origins: Sequence[str],
) -> None:
    """Draw a sheet of images, each with its true class, its predicted class and the confidence.

    Below each is where it comes from.

    Args:
        run: folder.
        images: uint8 [n, C, H, W].
        worst: predictions for these images.
        classes: names.
        title: of the sheet.
        origins: of the images; long ones are shown by their ends.
    """
    table, guesses, names = worst.probabilities["one"], worst.guesses(), unformatted(classes)
    above = [
        f"{names[label]}\n→ {names[guess]} {100 * shares.max():.0f}%"
        for label, guess, shares in zip(worst.labels, guesses, table, strict=True)
    ]
    write_figure(sheet(images, above, origins, title), run / "mistakes.png")


def sheet(
    images: NDArray[np.uint8], above: Sequence[str], below: Sequence[str], title: str
) -> Figure:
    """A sheet of images with two lines above each and one below.

    Args:
        images: uint8 [n, C, H, W].
        above: of each, fit for matplotlib.
        below: of each; long ones are shown by their ends.
        title: of the sheet.
    """
    rows, wide, tall = max(-(-len(images) // COLUMNS), 1), 1.08, 1.46  # in sides of an image
    figure = Figure(figsize=(1.15 * COLUMNS * wide, 1.15 * rows * tall + 0.5), layout="constrained")
    axis = figure.subplots()  # one for all, because each takes as long as thirty images
    axis.set_title(title, fontsize=10, pad=10)
    axis.axis("off")
    for number, image in enumerate(images):
        x, y = number % COLUMNS * wide, number // COLUMNS * tall + 0.3
        pixels = image.transpose(1, 2, 0)
        axis.imshow(
            pixels[..., 0] if pixels.shape[-1] == 1 else pixels, cmap="gray", vmin=0, vmax=255,
            extent=(x, x + 1, y + 1, y),
        )  # fmt: skip
        axis.text(x + 0.5, y - 0.04, above[number], fontsize=7.5, ha="center", va="bottom")
        origin = below[number]
        origin = origin if len(origin) <= _LONGEST else f"…{origin[-_LONGEST:]}"
        axis.text(
            x + 0.5,
            y + 1.02,
            unformatted([origin])[0],
            fontsize=5,
            ha="center",
            va="top",
            color="#555555",
        )
    axis.set(xlim=(0, COLUMNS * wide), ylim=(rows * tall, 0), aspect="equal")
    return figure
