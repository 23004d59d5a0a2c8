"""The one owner of the signals that ask a run to stop.

submitit's and Lightning's own handlers act at once, each rank for itself: with several ranks that
is a lost step or a deadlock inside a collective. Here a handler only takes a note; the ranks agree
at the end of a step, save once, and leave together.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

STOPPING = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)
_PATIENCE = 2.0  # seconds; launchers pass a terminal's ^C on, so that it can arrive twice at once


class Stopped(Exception):
    """A run has stopped because a signal asked it to.

    Attributes:
        signum: the signal.
        step: optimiser steps taken.
        saved: the checkpoint that holds them; None where it could not be written.
        noted: when the signal came, seconds since 1970.
    """

    def __init__(self, signum: int, step: int, saved: Path | None, noted: float) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name} at step {step}")
        self.signum, self.step, self.saved, self.noted = signum, step, saved, noted

    @property
    def name(self) -> str:
        """The signal's name."""
        return signal.Signals(self.signum).name


class Signals:
    """Takes notes of the stopping signals while it is entered.

    Attributes:
        got: the first signal noted, 0 if none.
        noted: when, seconds since 1970.
        previous: the handlers that were there before.
    """

    def __init__(self) -> None:
        self.got, self.noted = 0, 0.0
        self.previous: dict[int, Any] = {}
        self._process = os.getpid()

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a forked loader process got it too
            return
        now = time.time()
        if signum == signal.SIGINT and self.got and now - self.noted > _PATIENCE:
            raise KeyboardInterrupt  # asked a second time, in person
        if not self.got:
            self.got, self.noted = signum, now

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            for signum in STOPPING:
                self.previous[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for signum, handler in self.previous.items():
            signal.signal(signum, handler)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Block the stopping signals: processes that are started meanwhile inherit that.

    What comes in between is noted at the end, or by another thread of this process that does not
    block it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_in_loader(worker: int = 0) -> None:
    """Make a loader process deaf to stopping signals; its own rank ends it.

    SLURM signals every process of a step, and a batch is lost where a loader process dies.
    """
    for signum in STOPPING:
        signal.signal(signum, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
