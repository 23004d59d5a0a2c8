"""A run's curves, from the lines of its record and the events of its history: pure functions."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Line = Mapping[str, Any]


class Start(NamedTuple):
    """One start of a run.

    Attributes:
        begin: of training, seconds since 1970.
        end: of the start: when it stopped, or when it was last heard of.
        step: the first that it took, from 0.
        ended: how it ended, in words; empty of the newest one, if it has not.
        facts: what the history says of it.
    """

    begin: float
    end: float
    step: int
    ended: str
    facts: Line


class Point(NamedTuple):
    """A value after some steps; `epoch` and `hour` are None where the record does not say."""

    step: int
    epoch: float | None
    hour: float | None
    value: float


def starts(events: Sequence[Line], lines: Sequence[Line]) -> list[Start]:
    """The starts of a run's training, oldest first.

    Args:
        events: of its history.
        lines: of its record: a start that was killed leaves no event, only the lines before.
    """
    mine = [event for event in events if event.get("kind", "train") == "train"]
    heard = sorted(
        moment
        for item in [*lines, *mine]
        if (moment := number(item.get("time"))) is not None and item.get("event") != "submitted"
    )
    begins = [
        place
        for place, event in enumerate(mine)
        if event["event"] == "started" and number(event.get("time")) is not None
    ]
    found = []
    for place, following in itertools.zip_longest(begins, begins[1:]):
        begin = float(mine[place]["time"])
        after = math.inf if following is None else float(mine[following]["time"])
        heard_of = max([moment for moment in heard if begin <= moment < after], default=begin)
        ended = _ending(mine[place + 1 : following])
        if not ended and following is not None:
            ended = "killed, or lost its machine"
        step = mine[place].get("step")
        found.append(
            Start(begin, heard_of, step if isinstance(step, int) else 0, ended, mine[place])
        )
    return found


def _ending(events: Sequence[Line]) -> str:
    for event in events:
        if event["event"] == "stopped":
            return f"stopped by {event.get('signal', 'a signal')}"
        if event["event"] == "failed":
            return f"failed: {event.get('error', 'for a reason that is not known')}"
        if event["event"] in ("finished", "cancelled"):
            return str(event["event"])
    return ""


class Clock:
    """Hours of training: what passed between the end of a start and the next one does not count.

    Args:
        begun: the starts of the run.
    """

    def __init__(self, begun: Sequence[Start]) -> None:
        lengths = [start.end - start.begin for start in begun]
        self._begun = begun
        self._before = [0.0, *itertools.accumulate(lengths)]

    @property
    def total(self) -> float:
        """Hours of all starts."""
        return self._before[-1] / 3600

    def hour(self, moment: float | None) -> float | None:
        """The hour of training at a moment, seconds since 1970; None before the first start."""
        if moment is None:
            return None
        for start, before in zip(reversed(self._begun), self._before[-2::-1], strict=True):
            if moment >= start.begin:
                return (before + min(moment, start.end) - start.begin) / 3600
        return None

    def at(self, place: int) -> float:
        """The hour of training at which a start began."""
        return self._before[place] / 3600


def curve(
    lines: Sequence[Line], name: str, clock: Clock, steps_per_epoch: int | None
) -> list[Point]:
    """The values of one metric, which a record has on some of its lines.

    Args:
        lines: of the record.
        name: of the metric.
        clock: of the run.
        steps_per_epoch: None if unknown.
    """
    return [
        Point(
            line["step"] + 1,
            (line["step"] + 1) / steps_per_epoch if steps_per_epoch else None,
            clock.hour(number(line.get("time"))),
            value,
        )
        for line in lines
        if (value := number(line.get(name))) is not None and isinstance(line.get("step"), int)
    ]


def speed(
    lines: Sequence[Line], batch: int, begun: Sequence[Start], steps_per_epoch: int | None
) -> list[Point]:
    """Images a second between two lines of one epoch and start: without validation, with saving.

    Args:
        lines: of the record.
        batch: samples of a step, over all ranks.
        begun: the starts of the run.
        steps_per_epoch: None if unknown.
    """
    clock = Clock(begun)
    steps = [line for line in lines if number(line.get("train/loss")) is not None]
    found = []
    for before, after in itertools.pairwise(steps):
        then, now = number(before.get("time")), number(after.get("time"))
        if then is None or now is None or now <= then or after["step"] <= before["step"]:
            continue
        across = any(then < start.begin <= now for start in begun)
        if across or before.get("epoch") != after.get("epoch"):
            continue
        rate = (after["step"] - before["step"]) * batch / (now - then)
        step = after["step"] + 1
        epoch = step / steps_per_epoch if steps_per_epoch else None
        found.append(Point(step, epoch, clock.hour(now), rate))
    return found


def epoch_length(events: Sequence[Line], lines: Sequence[Line]) -> int | None:
    """Steps of an epoch, as the history says or as validations show; None if neither does."""
    for event in reversed(events):
        steps = event.get("steps_per_epoch")
        if isinstance(steps, int) and steps > 0:
            return steps
    for line in lines:
        if "val/top1" in line and isinstance(line.get("epoch"), int):
            return int((line["step"] + 1) // (line["epoch"] + 1)) or None
    return None


def number(value: Any) -> float | None:
    """A finite number, or None."""
    right = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if right else None
