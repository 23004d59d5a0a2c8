"""Pictures of a shard set: its class balance, and a sheet of samples."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pattlite_dist.errors import UserError
from pattlite_dist.files import atomic_write
from pattlite_dist.shards.glyphs import drawable
from pattlite_dist.shards.manifest import SPLIT_NAMES, Manifest
from pattlite_dist.shards.samples import FLAGS, Row, Sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Pixels = NDArray[np.uint8]
# Okabe and Ito's palette, distinguishable with every kind of colour vision.
SPLIT_COLOURS = {"train": "#0072B2", "val": "#E69F00", "test": "#009E73"}
FLAG_COLOURS = {
    "blank": "#56B4E9",
    "near blank": "#0072B2",
    "leak": "#D55E00",
    "conflict": "#CC79A7",
    "copy": "#F0E442",
}
FLAG_MEANINGS = {
    "blank": "blank: all pixels have the same value",
    "near blank": "near blank: hardly any contrast",
    "leak": "leak: identical image in train",
    "conflict": "conflict: identical image, other label",
    "copy": "copy: identical image, same label",
}
_INK, _GREY = "#222222", "#767676"
_DPI = 200
_TILE = 96  # pixels: approximate length of a sample's longer side as drawn
_FRAME, _AIR = 4, 3  # pixels: width of a frame, and of the white space around it
_KEY = 34  # pixels: a frame in the legend and the space after it
_LONGEST_NAME = 22


def draw_classes(manifest: Manifest, path: Path) -> None:
    """One panel per split: each class's share as a bar, its count at the end of the bar.

    Raises:
        UserError: the picture cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    splits = [split for split in SPLIT_NAMES if manifest.samples(split)]
    order = np.argsort(-np.sum([manifest.class_counts(s) for s in splits], axis=0), kind="stable")
    shares = {
        s: 100 * np.array(manifest.class_counts(s))[order] / manifest.samples(s) for s in splits
    }
    most = max(float(share.max()) for share in shares.values())
    classes = len(order)
    height = 0.85 + 0.24 * classes
    figure = Figure(figsize=(0.9 + 2.1 * len(splits), height), dpi=_DPI, layout="constrained")
    axes: Any = figure.subplots(1, len(splits), squeeze=False, sharey=True, sharex=True)[0]
    for axis, split in zip(axes, splits, strict=True):
        counts = np.array(manifest.class_counts(split))[order]
        axis.barh(range(classes), shares[split], 0.72, color=SPLIT_COLOURS[split])
        for place, (count, share) in enumerate(zip(counts, shares[split], strict=True)):
            axis.annotate(
                f"{count:,}", (share, place), (3, 0), textcoords="offset points",
                va="center", fontsize=7, color=_INK,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
            )  # fmt: skip
        axis.axvline(100 / classes, color=_GREY, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
        axis.set_title(f"{split} (n = {manifest.samples(split):,})", fontsize=8.5, color=_INK)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.spines["bottom"].set_color(_GREY)
        axis.tick_params(axis="y", length=0, labelsize=8, labelcolor=_INK)
        axis.tick_params(axis="x", labelsize=7, color=_GREY, labelcolor=_INK)
    labels = _names(manifest)
    names = [labels[label] for label in order]
    axes[0].set_yticks(range(classes), names, parse_math=False)
    axes[0].set_ylim(classes - 0.4, -0.6)
    axes[0].set_xlim(0, 1.22 * most)
    axes[0].set_xticks(
        [tick for tick in MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(0, most) if tick <= most]
    )
    figure.supxlabel("share of the split in % (dashed: equal shares)", fontsize=8, color=_INK)
    _save(figure, path)


def draw_samples(manifest: Manifest, sheet: Sheet, path: Path) -> None:
    """One row per class: its name and count, then its samples in frames that show their flags.

    Raises:
        UserError: the picture cannot be written.
    """
    from matplotlib.figure import Figure

    height, width = _tile_size(manifest.image.height, manifest.image.width)
    pitch_x, pitch_y = (side + 2 * (_FRAME + _AIR) for side in (width, max(height, 52)))
    columns = max(1, *(len(row.samples) for row in sheet.rows))
    figure = Figure(dpi=_DPI)
    labels = _names(manifest)
    names = [labels[row.label] for row in sheet.rows]
    counts = [_count(row) for row in sheet.rows]
    wide = [_text_width(name, 8.5) for name in names]
    wide += [_text_width(count, 7) for count in counts]
    left = 24 + round(max(wide))
    grid = np.full((len(sheet.rows) * pitch_y, columns * pitch_x, 3), 255, np.uint8)
    for number, row in enumerate(sheet.rows):
        for column, (image, flags) in enumerate(row.samples):
            top = number * pitch_y + (pitch_y - height) // 2
            _place(
                grid, _scaled(image, height, width), flags, top, column * pitch_x + _FRAME + _AIR
            )
    shown = [flag for flag in FLAGS if any(flag in f for row in sheet.rows for _, f in row.samples)]
    room = max([grid.shape[1], *(_KEY + _text_width(FLAG_MEANINGS[flag], 7.5) for flag in shown)])
    legend = list(_flow(shown, room))
    bottom = 12 + 34 * (legend[-1][2] + 1 if legend else 0)
    total_x, total_y = left + round(room) + 12, 12 + grid.shape[0] + bottom
    figure.set_size_inches(total_x / _DPI, total_y / _DPI)
    figure.figimage(grid, left, bottom)
    for number, (name, count) in enumerate(zip(names, counts, strict=True)):
        middle = bottom + grid.shape[0] - (number + 0.5) * pitch_y
        _text(figure, left - 10, middle + 11, name, 8.5, _INK, "right")
        _text(figure, left - 10, middle - 13, count, 7, _GREY, "right")
    for flag, x, line in legend:
        _key(figure, flag, left + _AIR + x, bottom - 26 - 34 * line)
    _save(figure, path)


def _names(manifest: Manifest) -> list[str]:
    return drawable([_short(label) for label in manifest.labels])


def _count(row: Row) -> str:
    return f"n = {row.count:,}" if row.flagged is None else f"{row.flagged:,} of {row.count:,}"


def _tile_size(height: int, width: int) -> tuple[int, int]:
    """The size at which a sample is drawn: its own, multiplied or divided by an integer."""
    longer = max(height, width)
    if longer > 2 * _TILE:
        factor = round(longer / _TILE)
        return -(-height // factor), -(-width // factor)
    factor = max(1, round(_TILE / longer))
    return height * factor, width * factor


def _scaled(image: Pixels, height: int, width: int) -> Pixels:
    """uint8 [C, H, W] as RGB [height, width, 3]: each pixel repeated, or blocks averaged."""
    from PIL import Image

    pixels = np.moveaxis(np.broadcast_to(image, (3, *image.shape[1:])), 0, 2)
    factor = height // pixels.shape[0]
    if factor:
        return pixels.repeat(factor, axis=0).repeat(factor, axis=1)
    return np.asarray(Image.fromarray(pixels).reduce(round(pixels.shape[0] / height)))


def _place(grid: Pixels, tile: Pixels, flags: Sequence[str], top: int, left: int) -> None:
    height, width, _ = tile.shape
    frame = grid[top - _FRAME : top + height + _FRAME, left - _FRAME : left + width + _FRAME]
    # Several flags share the frame, each taking a part of its width.
    parts = np.array_split(np.arange(frame.shape[1]), max(len(flags), 1))
    for flag, part in zip(flags, parts[: len(flags)], strict=True):
        frame[:, part] = [int(FLAG_COLOURS[flag][i : i + 2], 16) for i in (1, 3, 5)]
    grid[top : top + height, left : left + width] = tile


def _flow(flags: list[str], room: float) -> Iterator[tuple[str, float, int]]:
    """Where each key of the legend goes: distance from the left, and line from the top."""
    x, line = 0.0, 0
    for flag in flags:
        size = _KEY + _text_width(FLAG_MEANINGS[flag], 7.5)
        if x and x + size > room:
            x, line = 0.0, line + 1
        yield flag, x, line
        x += size + 30


def _key(figure: "Figure", flag: str, x: float, y: float) -> None:
    from matplotlib.patches import Rectangle

    box = Rectangle(
        (x + 2, y - 9), 18, 18, fill=False, linewidth=4 * 72 / _DPI, edgecolor=FLAG_COLOURS[flag],
        transform=None, joinstyle="miter",
    )  # fmt: skip
    figure.add_artist(box)
    _text(figure, x + 32, y, FLAG_MEANINGS[flag], 7.5, _INK, "left")


def _text(
    figure: "Figure", x: float, y: float, text: str, size: float, colour: str, side: str
) -> None:
    figure.text(
        x, y, text, transform=None, fontsize=size, color=colour, ha=side, va="center",
        parse_math=False,
    )  # fmt: skip


def _text_width(text: str, size: float) -> float:
    """In pixels."""
    from matplotlib.textpath import TextPath

    # A $ would start a formula, and an empty text is an error. Drawn on whole pixels, text is
    # slightly wider than this.
    outline = TextPath((0, 0), text.replace("$", "S") or "-", size)
    return float(outline.get_extents().width) * 1.05 * _DPI / 72


def _short(name: str) -> str:
    name = " ".join(name.split())
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _save(figure: "Figure", path: Path) -> None:
    try:
        with atomic_write(path) as stream:
            figure.savefig(stream, format="png", dpi=_DPI)
    except UserError as error:
        cause = error.__cause__
        reason = getattr(cause, "strerror", None) or cause
        raise UserError(f"cannot write {path}: {reason}; choose a file with --picture") from error
