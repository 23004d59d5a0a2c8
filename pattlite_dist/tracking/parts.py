"""Where a run's time goes: the parts of a step on each rank, as its record has them.

A line of the record that has `time/steps` says of that many steps how many seconds one took, in
each of `PARTS`, on average over the ranks; with several ranks, `ranks/…` lists the same by rank.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

PARTS = {
    "data": "waiting for data",
    "prepare": "augmenting",  # and copying
    "compute": "forward, backward",
    "reduce": "reduction",  # of gradients, which waits for the slowest rank
    "optimizer": "optimiser",  # and the average of the weights
    "save": "saving",
    "validate": "validation",
    "rest": "rest",
}
APART = ("save", "validate")  # not of every step
STEPS = "time/steps"
COSTLY = 0.1  # of the time of a step: from there on a straggler is named
_RECENT = 20  # lines by which it is judged


class Straggler(NamedTuple):
    """A rank for which the others wait; `cost` is the share of their time."""

    rank: int
    cost: float

    def __str__(self) -> str:
        return f"rank {self.rank} ({100 * self.cost:.0f} %)"


def metrics_of(table: Sequence[Sequence[float]], steps: int, batch: int) -> dict[str, Any]:
    """What a line of the record says of some steps.

    Args:
        table: seconds [rank][part], of all the steps together.
        steps: how many.
        batch: samples of a step, over all ranks.
    """
    columns = dict(zip(PARTS, zip(*table, strict=True), strict=True))
    found: dict[str, Any] = {STEPS: steps}
    for part, seconds in columns.items():
        found[f"time/{part}"] = _few(sum(seconds) / len(seconds) / steps)
    training = sum(sum(s) for part, s in columns.items() if part not in APART)
    if training:
        found["train/images_per_second"] = round(batch * steps * len(table) / training, 1)
    if len(table) > 1:
        for part, seconds in columns.items():
            found[f"ranks/{part}"] = [_few(value / steps) for value in seconds]
    return found


def _few(seconds: float) -> float:
    return round(seconds, 6)


def straggler(lines: Sequence[Mapping[str, Any]]) -> Straggler | None:
    """The rank that costs more than a tenth of the time; None if there is none, or one rank.

    The slowest rank finds the others waiting: it spends least in the reduction. What the others
    spend there more than it, their median, is its cost. Each line has its own; a rank counts that
    has been the slowest in most of the last lines.

    Args:
        lines: of the record, oldest first; those of other kinds are passed over.
    """
    found = [known for line in lines if (known := _slowest(line)) is not None][-_RECENT:]
    if not found:
        return None
    ranks = [rank for rank, _ in found]
    rank = max(set(ranks), key=ranks.count)
    costs = [cost if one == rank else 0.0 for one, cost in found]
    cost = statistics.median_low(costs)
    return Straggler(rank, cost) if cost > COSTLY else None


def _slowest(line: Mapping[str, Any]) -> tuple[int, float] | None:
    """The rank with the shortest wait, and what share of a step the others wait longer."""
    waits = _numbers(line.get("ranks/reduce"))
    parts = [_number(line.get(f"time/{part}")) for part in PARTS if part not in APART]
    step = sum(value for value in parts if value is not None)
    if len(waits) < 2 or step <= 0:
        return None
    rank = min(range(len(waits)), key=waits.__getitem__)
    others = [wait for place, wait in enumerate(waits) if place != rank]
    return rank, (statistics.median(others) - waits[rank]) / step


def totals(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Seconds of each part over all lines, on average over the ranks; empty if none says so."""
    found: dict[str, float] = {}
    for line in lines:
        steps = _number(line.get(STEPS))
        for part in PARTS if steps else ():
            value = _number(line.get(f"time/{part}"))
            found[part] = found.get(part, 0.0) + (value or 0.0) * (steps or 0.0)
    return found


def totals_by_rank(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """The same for each rank; of the lines with the newest number of ranks, empty for one rank."""
    known = [line for line in lines if _numbers(line.get("ranks/reduce")) and line.get(STEPS)]
    ranks = len(known[-1]["ranks/reduce"]) if known else 0
    found = [dict.fromkeys(PARTS, 0.0) for _ in range(ranks)]
    for line in known:
        for part in PARTS:
            values = _numbers(line.get(f"ranks/{part}"))
            if len(values) == ranks:
                for rank, value in enumerate(values):
                    found[rank][part] += value * line[STEPS]
    return found


def _number(value: Any) -> float | None:
    right = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if right else None


def _numbers(value: Any) -> list[float]:
    found = [_number(item) for item in value] if isinstance(value, list) else []
    return [] if None in found else [item for item in found if item is not None]
