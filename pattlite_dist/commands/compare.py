"""`pattlite compare`: several runs of one configuration, and two configurations."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pattlite_dist.console import print_rows

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def add_options(parser: "ArgumentParser") -> None:
    """Options of `compare`."""
    from pattlite_dist.location import Record

    parser.add_argument(
        "runs",
        type=Record,
        nargs="+",
        help="evaluated runs of one configuration with several seeds, or RUN/evaluation/NAME",
    )
    parser.add_argument(
        "--against", type=Record, nargs="+", default=[], help="equally many runs of a second one"
    )
    parser.add_argument("--split", choices=("val", "test", "test_clean"), default="test")
    parser.add_argument("--view", choices=("one", "flip", "ten-crop"), default="one")


def work(options: Any) -> int:
    """Print the comparison as a table."""
    from pattlite_dist.evaluation.compare import read_scored, stale, table

    first, second = (
        [read_scored(Path(run), options.split, options.view) for run in runs]
        for runs in (options.runs, options.against)
    )
    rows = table(first, second)
    print(f"{options.split}, view {options.view}, {len(first[0].predictions):,} samples")
    print_rows(rows)
    for line in stale([*first, *second]):
        print(f"note: {line}")
    return 0
