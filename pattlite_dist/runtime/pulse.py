"""What a rank is doing, noted at no cost to a step, and how long that may take."""

import contextlib
import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

Phase = Literal["start", "data", "step", "save", "validation", "epoch end"]
_LEARNED: tuple[Phase, ...] = ("step", "validation")  # whose length is much the same every time
_LEAST = 120.0  # seconds
_TIMES = 10.0  # as long as the slowest so far
_WINDOW = (5.0, 30.0)  # seconds without news until a rank counts as silent, least and most


class Now(NamedTuple):
    """What a rank does: since when, in seconds of `time.monotonic`, and after how many steps."""

    phase: Phase
    step: int
    since: float


class Pulse:
    """Of this rank; written by its main thread and read by another.

    Attributes:
        now: what it does.
        slowest: seconds of each phase that it has completed.
        seen: how many of each.
        paused: seconds that the process has stood still, as when it is suspended.
    """

    def __init__(self) -> None:
        self.now = Now("start", 0, time.monotonic())
        self.slowest: dict[Phase, float] = {}
        self.seen: Counter[Phase] = Counter()
        self.paused = 0.0
        self._paused_before = 0.0

    def begin(self, phase: Phase, step: int) -> None:
        """Note what begins, which ends what was."""
        moment = time.monotonic()
        before, took = self.now.phase, self.seconds(moment)
        if took > self.slowest.get(before, 0.0):
            self.slowest[before] = took
        self.seen[before] += 1
        self._paused_before = self.paused
        self.now = Now(phase, step, moment)

    @contextlib.contextmanager
    def within(self, phase: Phase, step: int) -> Iterator[None]:
        """A phase inside of another, which begins anew afterwards."""
        before = self.now.phase
        self.begin(phase, step)
        try:
            yield
        finally:
            self.begin(before, step)

    def seconds(self, moment: float) -> float:
        """How long the present phase has taken, pauses left out."""
        return moment - self.now.since - (self.paused - self._paused_before)


@dataclass(frozen=True)
class Limits:
    """How long phases may take.

    Attributes:
        hang_minutes: any phase; None: by what was seen, 0: for ever.
        timeout_minutes: how long ranks wait for each other.
        alone: whether there is one rank, for which nobody waits.
        steady: whether steps are alike; not while some are compiled.
    """

    hang_minutes: float | None
    timeout_minutes: float
    alone: bool
    steady: bool = True

    def patience(self, pulse: Pulse) -> float:
        """Seconds that the present phase may take; infinite where nothing can be said.

        The first of its kind may compile, or fill caches. Others may wait for data, a disk, or
        what rank 0 draws: all that is bounded by how long ranks wait for each other anyway.
        """
        phase = pulse.now.phase
        longest = math.inf if self.hang_minutes == 0 else _longest_within(60 * self.timeout_minutes)
        if phase == "start" or not pulse.seen[phase]:
            return math.inf if self.alone else longest
        if self.hang_minutes is not None:
            return 60 * self.hang_minutes or math.inf
        if phase in _LEARNED and self.steady:
            return min(max(_LEAST, _TIMES * pulse.slowest[phase]), longest)
        return math.inf if self.alone and phase != "data" else longest


def window_of(patience: float) -> float:
    """Seconds without news, after that patience, until a rank counts as silent."""
    return min(max(patience / 4, _WINDOW[0]), _WINDOW[1])


def _longest_within(timeout: float) -> float:
    """The longest patience that ends, its window included, before the collectives give up.

    They can only say that they waited.

    Args:
        timeout: of the collectives, seconds.
    """
    return max(0.75 * timeout, 0.95 * timeout - _WINDOW[1])


class Beat(NamedTuple):
    """What a rank tells the others.

    Attributes:
        rank: it.
        phase: what it does.
        step: steps it has taken.
        over: whether that takes longer than it should.
    """

    rank: int
    phase: Phase
    step: int
    over: bool


def culprits(beats: list[Beat], silent: set[int]) -> list[int]:
    """The ranks because of which all wait; none if one of them only takes its time.

    Args:
        beats: the last of each rank.
        silent: those of which there was no news.
    """
    if silent:
        return sorted(silent)
    if not beats or not all(beat.over for beat in beats):
        return []
    first = min(beat.step for beat in beats)
    behind = [beat for beat in beats if beat.step == first]
    odd = [beat.rank for beat in behind if beat.phase != "step"]
    return odd or [beat.rank for beat in behind]
