"""A schedule that is shortened on the way, and when to shorten it: pure functions of numbers."""

import math
from collections.abc import Sequence
from typing import NamedTuple

_RECENT = 3  # epochs whose slowest says how long the next ones take


class Change(NamedTuple):
    """From a step on, what was left of the schedule passes evenly until another last step.

    Attributes:
        step: from which on.
        progress: how much of the schedule had passed by then, 0-1.
        end: the step at which all of it will have.
    """

    step: int
    progress: float
    end: int


def progress(step: int, total: int, changes: Sequence[Change]) -> float:
    """How much of the schedule has passed at a step, 0-1; continuous across changes.

    Args:
        step: of the run.
        total: steps, before any change.
        changes: in order of their steps.
    """
    start, done, end = 0, 0.0, total
    for change in changes:
        if change.step <= step:
            start, done, end = change
    return 1.0 if step >= end else done + (1 - done) * (step - start) / (end - start)


def as_scheduled(step: int, total: int, changes: Sequence[Change]) -> float:
    """The step at which a run that takes `total` steps would have the same learning rate.

    It is the step itself, exactly, up to the first change.
    """
    if all(change.step > step for change in changes):
        return step
    return progress(step, total, changes) * total


def changed(step: int, end: int, total: int, changes: Sequence[Change]) -> list[Change]:
    """The changes, with one more if the schedule is now to end at another step than before."""
    before = changes[-1].end if changes else total
    more = [] if end == before else [Change(step, progress(step, total, changes), end)]
    return [*changes, *more]


def epochs_that_fit(durations: Sequence[float], elapsed: float, saving: float, limit: float) -> int:
    """How many more epochs end within a limit, by the slowest of the last few.

    The first one is not counted once there are others: caches were cold, kernels not compiled.

    Args:
        durations: seconds of each epoch so far, validation included, and saving but for the first.
        elapsed: seconds since the start.
        saving: seconds that the last epoch's checkpoint takes.
        limit: seconds.
    """
    recent = (durations[1:] or durations)[-_RECENT:]
    left = limit - elapsed - saving
    return max(math.floor(left / max([*recent, 1e-9]) + 1e-9), 0)


def best_epoch(scores: Sequence[float], min_delta: float) -> int:
    """The last epoch that scored more than `min_delta` above the best one before it."""
    best = 0
    for epoch, score in enumerate(scores):
        if score > scores[best] + min_delta:
            best = epoch
    return best
