"""The work that runs take to reach a top-1 on val: minutes and images, a table.

    python benchmarks/work.py RUN ... [--goals 60 64]

RUN is a folder of `pattlite train`. Minutes are those of training, until the first validation that
reached the goal, without those between a stop and the next start. They compare recipes only on the
same machine with nothing else on it; images compare anywhere.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pattlite_dist.console import print_rows
from pattlite_dist.report.record import RunRecord, read_records


class Work(NamedTuple):
    """What had been done at the end of a validation.

    Attributes:
        top1: of that validation, 0-1.
        minutes: of training.
        images: that were trained on, each time an image was drawn.
    """

    top1: float
    minutes: float
    images: int


def course(record: RunRecord) -> list[Work]:
    """What had been done at each validation of a run, in order."""
    found = []
    for line in record.lines:
        hour, top1 = record.clock.hour(line.get("time")), line.get("val/top1")
        if isinstance(top1, float) and hour is not None and record.batch is not None:
            found.append(Work(top1, 60 * hour, (line["step"] + 1) * record.batch))
    return found


def reached(done: Sequence[Work], goal: float) -> Work | None:
    """The first validation that reached a goal, 0-1; None if none has."""
    return next((work for work in done if work.top1 >= goal), None)


def table(runs: Mapping[str, Sequence[Work]], goals: Sequence[float]) -> list[list[str]]:
    """A row for each run, and the head.

    Args:
        runs: what had been done at each validation, by name.
        goals: top-1, %.
    """
    head = ["run", "best %", *(f"{what} to {goal:g} %" for goal in goals
                               for what in ("minutes", "images"))]  # fmt: skip
    rows = [head]
    for name, done in runs.items():
        cells = [name, f"{100 * max((work.top1 for work in done), default=0):.1f}" if done else "-"]
        for goal in goals:
            work = reached(done, goal / 100)
            cells += ["-", "-"] if work is None else [f"{work.minutes:.1f}", f"{work.images:,}"]
        rows.append(cells)
    return rows


def main() -> None:
    """Read the runs and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--goals", nargs="+", type=float, default=[60.0, 64.0], metavar="TOP1")
    options: Any = parser.parse_args()
    records = read_records(options.runs)
    if notes := [note for record in records for note in record.notes]:
        parser.exit(2, "".join(f"error: {note.removeprefix('left out: ')}\n" for note in notes))
    print_rows(table({one.name: course(one) for one in records}, options.goals))


if __name__ == "__main__":
    main()
