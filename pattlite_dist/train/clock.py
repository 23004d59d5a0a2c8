"""Measures the parts of a step on one rank, without waiting for anything."""

import time
from collections.abc import Callable
from typing import Any

import torch

from pattlite_dist.tracking.parts import APART, PARTS

_ON_GPU = ("prepare", "compute", "reduce", "optimizer")  # between five marks


class Clock:
    """Divides a rank's time into parts: all that passes between two marks is the second's.

    On a GPU, the host's time in most parts is only that of launching: one step of an interval is
    measured by events on the device, and what the host had to wait for its data is subtracted
    from the first part.

    Args:
        gpu: whether the device is one.
        now: seconds since any moment.
    """

    def __init__(self, gpu: bool = False, now: Callable[[], float] = time.perf_counter) -> None:
        self._now, self._gpu = now, gpu
        self._events: list[Any] = []
        self._waited = 0.0
        self.start()

    def start(self) -> None:
        """Forget what was before."""
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._last, self._steps = self._now(), 0
        self._samples = self._measured = False

    def mark(self, part: str) -> None:
        """What passed since the last mark was spent in this part."""
        now = self._now()
        self._seconds[part] += now - self._last
        self._last = now
        if not self._samples:
            return
        if part in _ON_GPU:
            self._record(1 + _ON_GPU.index(part))
            self._measured = part == _ON_GPU[-1]
        elif part in APART:
            self._samples = False

    def prepared(self, waited: float) -> None:
        """A batch is there.

        Args:
            waited: how many of the seconds since the last mark went by before the loader had it.
        """
        self.mark("prepare")
        self._seconds["prepare"] -= waited
        self._seconds["data"] += waited
        self._waited = waited

    def stepped(self) -> None:
        """A step has ended."""
        self.mark("optimizer")
        self._steps += 1

    def sample(self) -> None:
        """Measure the next step on the device, if that is a GPU."""
        if self._gpu:
            self._samples = True
            self._record(0)

    def take(self) -> tuple[int, list[int]]:
        """Steps since this was last called, and microseconds of each part; begins anew.

        On a GPU, what was measured there is used only if it has come to its end.
        """
        self.mark("rest")
        seconds, steps = self._seconds, self._steps
        if self._gpu:
            self._use_events(seconds, steps)
        self.start()
        return steps, [max(round(seconds[part] * 1e6), 0) for part in PARTS]

    def _record(self, place: int) -> None:
        while len(self._events) <= place:
            self._events.append(torch.cuda.Event(enable_timing=True))  # type: ignore[no-untyped-call]
        self._events[place].record()

    def _use_events(self, seconds: dict[str, float], steps: int) -> None:
        """Replace what the host measured of launching; the rest of its time is `rest`."""
        whole = sum(seconds.values())
        for part in _ON_GPU:
            seconds[part] = 0.0
        events = self._events
        if self._measured and all(event.query() for event in events):
            for part, begin, end in zip(_ON_GPU, events, events[1:], strict=False):
                seconds[part] = steps * begin.elapsed_time(end) / 1000
            seconds["prepare"] = max(seconds["prepare"] - steps * self._waited, 0.0)
        seconds["rest"] = 0.0
        seconds["rest"] = max(whole - sum(seconds.values()), 0.0)
