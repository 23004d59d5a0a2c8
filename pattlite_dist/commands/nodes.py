"""`pattlite nodes`: what runs have seen of each node."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pattlite_dist.console import print_rows
from pattlite_dist.slurm.facts import find_runs
from pattlite_dist.slurm.status import duration
from pattlite_dist.tracking.history import last_start, read
from pattlite_dist.tracking.nodes import Node, Seen, sum_up
from pattlite_dist.tracking.parts import straggler
from pattlite_dist.tracking.record import RECORD_NAME, read_metrics

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def add_options(parser: "ArgumentParser") -> None:
    """The command's options."""
    from pattlite_dist.location import Record

    parser.add_argument("folders", type=Record, nargs="*", help="runs, sweeps, or folders of these")
    parser.add_argument(
        "--runs",
        type=Record,
        default="runs",
        metavar="DIR",
        help="where none is named; default: runs",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")


def work(options: Any) -> int:
    """Print what runs have seen of each node; returns the exit status.

    Raises:
        UserError: there is no run.
    """
    folders = options.folders or [options.runs]
    nodes = sum_up(_seen(run) for run in find_runs(Path(folder) for folder in folders))
    if options.json:
        print(json.dumps([as_json(node) for node in nodes], indent=1))
        return 0
    cells = table(nodes)
    print_rows(cells, [0, len(cells[0]) - 1])
    return 0


def _seen(run: Path) -> Seen:
    """What a run's folder says; what is missing or damaged in it is left out."""
    events = read(run)
    try:
        lines = read_metrics(run / RECORD_NAME)
    except (OSError, ValueError):
        lines = []
    known = [line for line in lines if isinstance(line, dict) and isinstance(line.get("step"), int)]
    begin = last_start(events).get("time", 0)
    slow = straggler([line for line in known if line.get("time", 0) >= begin])
    steps = max((line["step"] + 1 for line in known), default=0)
    return Seen(str(run), events, steps, None if slow is None else (slow.rank, slow.cost))


def as_json(node: Node) -> dict[str, Any]:
    """A node for scripts: the table's columns, and each failure."""
    failures = [failure._asdict() for failure in node.failures]
    counts = {kind: node.count(kind) for kind in ("crash", "hang", "probe")}
    return {**node._asdict(), "slow": dict(node.slow), "failures": failures, "counts": counts}


def table(nodes: Sequence[Node]) -> list[list[str]]:
    """The cells of the table, header first, without columns that are empty."""
    columns: dict[str, list[str]] = {
        "node": [node.node for node in nodes],
        "runs": [str(node.runs) for node in nodes],
        "starts": [f"{node.starts:,}" for node in nodes],
        "steps": [f"{node.steps:,}" for node in nodes],
        "crashes": [str(node.count("crash") or "") for node in nodes],
        "hangs": [str(node.count("hang") or "") for node in nodes],
        "failed probes": [str(node.count("probe") or "") for node in nodes],
        "lost": [duration(node.seconds_lost) if node.failures else "" for node in nodes],
        "waited for": [_slow(node) for node in nodes],
        "last failure": [node.failures[-1].reason if node.failures else "" for node in nodes],
    }
    always = ("node", "runs", "starts", "steps")
    columns = {name: cells for name, cells in columns.items() if any(cells) or name in always}
    return [list(columns), *(list(cells) for cells in zip(*columns.values(), strict=True))]


def _slow(node: Node) -> str:
    """By how much the slowest of its runs waits."""
    return f"{100 * max(node.slow.values()):.0f} %" if node.slow else ""
