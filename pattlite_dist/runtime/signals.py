"""The one owner of the signals that ask a run to stop.

The handlers of submitit and Lightning act at once, on each rank by itself: with several ranks, that
loses a step or deadlocks inside a collective. Here, a handler only records the signal; the ranks
agree at the end of a step, save once, and leave together.
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
_PR_SET_PDEATHSIG = 1  # of Linux's prctl
_PATIENCE = 2.0  # seconds; launchers forward a terminal's ^C, so it can arrive twice at once


class Stopped(Exception):
    """A run has stopped because a signal asked it to.

    Attributes:
        signum: the signal.
        step: optimiser steps taken.
        saved: the checkpoint that holds them; None if it could not be written.
        noted: when the signal arrived, seconds since 1970.
        ends: until when this process may work, if that is known.
    """

    def __init__(
        self, signum: int, step: int, saved: Path | None, noted: float, ends: float | None = None
    ) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name} at step {step}")
        self.signum, self.step, self.saved = signum, step, saved
        self.noted, self.ends = noted, ends

    @property
    def name(self) -> str:
        """The signal's name."""
        return signal.Signals(self.signum).name


class Signals:
    """Context manager that records the stopping signals.

    Attributes:
        got: the first signal recorded, 0 if none.
        noted: when it arrived, seconds since 1970.
        ends: until when this process may work, if a notice said it.
        replaced: whether a newer start of the job goes on with the run.
        previous: the handlers to restore.
    """

    def __init__(self) -> None:
        self.got, self.noted, self.replaced = 0, 0.0, False
        self.ends: float | None = None
        self.previous: dict[int, Any] = {}
        self._process = os.getpid()

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a forked loader process got it too
            return
        now = time.time()
        if signum == signal.SIGINT and self.got and now - self.noted > _PATIENCE:
            raise KeyboardInterrupt  # the user pressed ^C a second time
        if not self.got:
            self.got, self.noted = signum, now

    def replace(self) -> None:
        """Stop as for SIGTERM, because a newer start of the job goes on with the run."""
        self.replaced = True
        if not self.got:
            self.got, self.noted = signal.SIGTERM, time.time()

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
    """Block the stopping signals; processes started in the meantime inherit that.

    A signal that arrives in between is recorded at the end, or by another thread of this process
    that does not block it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_helpers(context: Any) -> None:
    """Start what multiprocessing needs beside the processes it starts, with the signals held back.

    Starting its resource tracker unblocks SIGTERM and SIGINT. A fork server hands its own mask down
    to all it forks, whoever asks and whenever: started with open signals, for whatever purpose, it
    forks loader processes that a signal kills before `ignore_in_loader`. So all that use one call
    this first, and what they start unblocks the signals, by that function or `accept`.

    Args:
        context: of multiprocessing; None stands for the default one.
    """
    import multiprocessing
    from multiprocessing import forkserver, resource_tracker

    method = (context or multiprocessing).get_start_method()
    if method != "fork":
        with held_back():
            resource_tracker.ensure_running()
    if method == "forkserver":
        with held_back():
            forkserver.ensure_running()


def accept() -> None:
    """Let the stopping signals through again, in a process started while they were held back."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)


def ignore_in_loader(worker: int = 0) -> None:
    """Make a loader process ignore stopping signals; its own rank ends it, however that ends.

    SLURM signals every process of a step, and a loader process that dies loses a batch.
    """
    for signum in STOPPING:
        signal.signal(signum, signal.SIG_IGN)
    accept()
    _end_with_parent()


def _end_with_parent() -> None:
    """Have the kernel kill this process once its parent has ended; one that is stopped, too."""
    import ctypes

    prctl = getattr(ctypes.CDLL(None), "prctl", None)  # of Linux
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
