"""`pattlite status`: the state of runs."""

import contextlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pattlite_dist.console import print_rows
from pattlite_dist.errors import UserError
from pattlite_dist.slurm.facts import find_runs
from pattlite_dist.slurm.status import survey, table

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

_LEAST = 1.0  # seconds between two looks


def add_options(parser: "ArgumentParser") -> None:
    """The command's options."""
    from pattlite_dist.location import Record

    parser.add_argument(
        "folders", type=Record, nargs="*", default=["runs"],
        help="runs, sweeps, or folders of these",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")
    parser.add_argument("--watch", action="store_true", help="look again and again, until Ctrl-C")
    parser.add_argument(
        "--every", type=float, default=10.0, metavar="SECONDS", help="with --watch; default: 10"
    )


def work(options: Any) -> int:
    """Print the state of runs; returns the exit status.

    Raises:
        UserError: there is no run, or no terminal to watch it in.
    """
    folders = [Path(folder) for folder in options.folders]
    if options.watch:
        if options.json or not sys.stdout.isatty():
            raise UserError("--watch draws on a terminal; leave it out, or repeat --json")
        if not options.every >= _LEAST:
            raise UserError(f"--every {options.every:g} is below {_LEAST:g} s; give more")
        watch(lambda: show(folders), options.every)
    elif options.json:
        rows = survey(find_runs(folders))
        print(json.dumps([row._asdict() for row in rows], indent=1))
    else:
        show(folders)
    return 0


def show(folders: list[Path]) -> None:
    """Print the table."""
    cells = table(survey(find_runs(folders)))
    print_rows(cells, [cells[0].index(name) for name in ("run", "state")])


def watch(draw: Callable[[], None], seconds: float) -> None:
    """Draw on an otherwise empty screen again and again; what was drawn last stays.

    Each time, what is drawn has the width that the terminal has then.

    Args:
        draw: prints.
        seconds: from one time to the next.
    """
    from rich.console import Console

    console = Console()
    with contextlib.suppress(KeyboardInterrupt), console.screen(style=None):
        while True:
            console.clear()
            draw()
            print(f"\n{time.strftime('%H:%M:%S')}, again every {seconds:g} s; Ctrl-C ends this")
            time.sleep(seconds)
    draw()
