"""What commands print while they work and when they end: a bar, a table."""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pattlite_dist.shards.manifest import Manifest
    from pattlite_dist.shards.survey import Progress


@contextlib.contextmanager
def show_progress() -> Iterator["Progress"]:
    """A progress function: a bar on a terminal, a line every ten seconds in a log file."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    tasks: dict[str, int] = {}
    with bar:

        def report(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            if done % 64 == 0 or done == total:
                bar.update(tasks[what], completed=done)  # type: ignore[arg-type]

        yield report


def _lines() -> "Progress":
    last = time.monotonic()

    def report(what: str, done: int, total: int | None) -> None:
        nonlocal last
        if time.monotonic() - last >= 10:
            last = time.monotonic()
            print(f"{what}: {done:,}{'' if total is None else f' of {total:,}'}", file=sys.stderr)

    return report


def print_rows(rows: list[list[str]]) -> None:
    """Print a table, its first row the header."""
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for number, name in enumerate(rows[0]):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    for row in rows[1:]:
        table.add_row(*row)
    # In a log file rich would fold at 80 columns; a table wants its own width.
    width = None if sys.stdout.isatty() else 160
    Console(width=width).print(table)


def print_manifest(manifest: "Manifest") -> None:
    """Print what a shard set holds, by split and class."""
    from pattlite_dist.shards.verify import class_table

    print_rows(class_table(manifest))
