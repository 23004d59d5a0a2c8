"""`pattlite targets`: soft targets for training, from runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pattlite_dist.console import show_progress
from pattlite_dist.runtime.imports import quick_imports

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def add_options(parser: "ArgumentParser") -> None:
    """Options of `targets`."""
    from jsonargparse.typing import PositiveFloat

    from pattlite_dist.location import Location, Run

    parser.add_argument(
        "runs", type=Run, nargs="+", help="run folders, or checkpoints; the targets are their mean"
    )
    parser.add_argument("out", type=Path, help="file to write: .safetensors")
    parser.add_argument(
        "--shards", type=Location, default=None, help="use instead of the runs' own"
    )
    parser.add_argument("--split", choices=("train", "val", "test"), default="train")
    parser.add_argument(
        "--view", choices=("one", "flip", "ten-crop"), default="flip",
        help="the image itself, the mean with its mirror, or the mean of ten crops",
    )  # fmt: skip
    parser.add_argument(
        "--temperature", type=PositiveFloat, default=1.0,
        help="divide logits by it; above 1, targets are softer",
    )  # fmt: skip
    parser.add_argument("--accelerator", choices=("auto", "cpu", "gpu"), default="auto")


def work(options: Any) -> int:
    """Make targets."""
    with quick_imports():
        from pattlite_dist.evaluation.targets import make_targets
    from pattlite_dist.runtime.world import detect

    with show_progress() as progress:
        found, top1 = make_targets(
            [Path(run) for run in options.runs],
            options.out,
            options.shards,
            options.split,
            options.view,
            options.temperature,
            options.accelerator,
            progress,
        )
    if detect().main:
        least, most = int(found.runs.min()), int(found.runs.max())
        each = f"{most}" if least == most else f"{least} to {most}"
        print(
            f"{options.out}: {len(found.runs):,} samples of {options.split}, each the mean of "
            f"{each} of {len(found.facts.runs)} run(s), view {options.view}; the most probable "
            f"class is the label for {100 * top1:.2f} %"
        )
    return 0
