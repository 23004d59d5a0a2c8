"""`pattlite export`: a run as one file."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pattlite_dist.commands.options import MODELS
from pattlite_dist.runtime.imports import quick_imports

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def add_options(parser: "ArgumentParser") -> None:
    """Options of `export`."""
    from pattlite_dist.location import Location, Run

    parser.add_argument("target", type=Run, help=MODELS)
    parser.add_argument(
        "out", type=Path, help="file to write: .safetensors, .onnx or .pt2; its card goes beside it"
    )
    parser.add_argument(
        "--format", choices=("safetensors", "safetensors-half", "onnx", "onnx-int8", "pt2"),
        default=None, help="default: by the name of the file",
    )  # fmt: skip
    parser.add_argument(
        "--shards", type=Location, default=None,
        help="to compare the file with the run on, instead of the run's own",
    )  # fmt: skip
    parser.add_argument(
        "--notes", type=Path, default=None, metavar="FILE",
        help="Markdown to add to the card, such as further looks at test",
    )  # fmt: skip


def work(options: Any) -> int:
    """Export a run."""
    with quick_imports():
        from pattlite_dist.export.export import export

    target = Path(options.target)
    card, found = export(target, options.out, options.format, options.shards, options.notes)
    print(
        f"{options.out}: {options.out.stat().st_size:,} bytes; val top-1 {100 * found.top1:.2f} % "
        f"(the run: {100 * found.top1_run:.2f} %), largest difference of a probability "
        f"{found.difference:.1e}, on {found.samples:,} images"
    )
    print(card)
    return 0
