"""`pattlite report`: one page about one run or several."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pattlite_dist.runtime.imports import quick_imports

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def add_options(parser: "ArgumentParser") -> None:
    """Options of `report`."""
    from pattlite_dist.location import Record

    parser.add_argument("folders", type=Record, nargs="+", help="runs, sweeps, or folders of these")
    parser.add_argument(
        "-o", "--out", type=Path, default=None,
        help="file to write; default: report.html in the folder, if one is given, else here",
    )  # fmt: skip
    parser.add_argument(
        "--images", action="store_true",
        help="show the worst mistakes as pictures; faces of people, if the set has them",
    )  # fmt: skip


def work(options: Any) -> int:
    """Write the report.

    Raises:
        UserError: there is no run, or what draws the charts is not installed.
    """
    with quick_imports():
        from pattlite_dist.report.mistakes import pictures
        from pattlite_dist.report.page import require, write_report
        from pattlite_dist.report.record import read_records
    from pattlite_dist.slurm.facts import find_runs
    from pattlite_dist.tracking.record import REPORT_NAME

    require()
    folders = [Path(folder) for folder in options.folders]
    records = read_records(find_runs(folders))
    alone = len(folders) == 1
    out = options.out or (folders[0] if alone else Path()) / REPORT_NAME
    for record in records:
        for note in record.notes:
            print(f"note: {note}", file=sys.stderr)
    size = write_report(records, out, pictures(records) if options.images else "")
    print(f"{out}: {len(records)} run{'s' if len(records) > 1 else ''}, {size:,} bytes")
    return 0
