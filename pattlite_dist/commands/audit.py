"""`pattlite audit`: what an accuracy depends on besides the images and the weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pattlite_dist.commands.options import MODELS
from pattlite_dist.console import print_rows, show_progress
from pattlite_dist.runtime.imports import quick_imports

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def add_options(parser: "ArgumentParser") -> None:
    """Options of `audit`."""
    from jsonargparse.typing import PositiveInt

    from pattlite_dist.location import Location, Run

    parser.add_argument("target", type=Run, help=MODELS)
    parser.add_argument(
        "--shards",
        type=Location,
        default=None,
        help="use instead of the run's own; the audit of others is in RUN/evaluation/NAME",
    )
    parser.add_argument(
        "--split", choices=("val", "test"), default=None, help="to audit; default: test, if any"
    )
    parser.add_argument(
        "--batch", type=PositiveInt, default=32, help="samples per batch (reference code: 32)"
    )
    parser.add_argument("--accelerator", choices=("auto", "cpu", "gpu"), default="auto")


def work(options: Any) -> int:
    """Audit a run; returns 1 if its predictions depend on their batch."""
    with quick_imports():
        from pattlite_dist.evaluation.answers import table, verdict
        from pattlite_dist.evaluation.audit import audit

    with show_progress() as progress:
        path, found = audit(
            Path(options.target),
            options.shards,
            options.split,
            options.batch,
            options.accelerator,
            progress,
        )
    print(f"{found.checkpoint} on {found.split}")
    print_rows(table(found))
    print(verdict(found))
    print(path)
    return 0 if found.independence.holds else 1
