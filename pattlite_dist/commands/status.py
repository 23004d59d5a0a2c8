"""`pattlite status`: the state of runs."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pattlite_dist.console import print_rows
from pattlite_dist.slurm.facts import find_runs
from pattlite_dist.slurm.status import survey, table

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def add_options(parser: "ArgumentParser") -> None:
    """The command's options."""
    parser.add_argument(
        "folders", type=str, nargs="*", default=["runs"], help="runs, sweeps, or folders of these"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")


def work(options: Any) -> int:
    """Print the state of runs; returns the exit status.

    Raises:
        UserError: there is no run.
    """
    rows = survey(find_runs(map(Path, options.folders)))
    if options.json:
        print(json.dumps([row._asdict() for row in rows], indent=1))
        return 0
    cells = table(rows)
    print_rows(cells, [cells[0].index(name) for name in ("run", "state")])
    return 0
