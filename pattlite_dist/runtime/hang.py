"""Ends a run that hangs: a thread of each rank that waits too long finds out because of whom.

It asks the other ranks by their common store. Either one of them is silent, stopped or lost, or all
take longer than ever at what they do. Then each writes the stacks of its threads into the run's
folder and ends, so that the run can be started again. A rank that only takes its time, and a pause
that all share, are no hang.
"""

import contextlib
import faulthandler
import functools
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pattlite_dist.runtime import failure
from pattlite_dist.runtime import world as worlds
from pattlite_dist.runtime.bounded import within
from pattlite_dist.runtime.elastic import note_failure
from pattlite_dist.runtime.others import GOODBYE, Others, being_debugged, hung
from pattlite_dist.runtime.pulse import Beat, Limits, Pulse, window_of
from pattlite_dist.runtime.world import World

STACKS = "stacks"  # folder in the run's
_EVERY = 1.0  # seconds between two looks
_PAUSE = 5.0  # seconds between two looks that mean that this process stood still


class Watchdog:
    """Of one rank; runs from `start` to `stop`.

    Args:
        pulse: of this rank.
        limits: how long it may take.
        run: folder.
        rank: this.
        others: None for a single rank.
        note: adds to the run's history.
    """

    def __init__(
        self,
        pulse: Pulse,
        limits: Limits,
        run: Path,
        rank: int,
        others: Others | None,
        note: Callable[[str], None],
    ) -> None:
        self.pulse, self.limits, self.run = pulse, limits, run
        self.rank, self.note, self._others = rank, note, others
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="pattlite-hang", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._over.set()

    def _watch(self) -> None:
        last = began = time.monotonic()
        waits = False
        while not self._over.wait(_EVERY):
            moment = time.monotonic()
            if moment - last > _PAUSE:
                self.pulse.paused += moment - last
                waits = False
            last = moment
            patience = self.limits.patience(self.pulse)
            over = self.pulse.seconds(moment) > patience
            if self._others is not None:
                now = self.pulse.now
                self._others.tell(Beat(self.rank, now.phase, now.step, over))
            if over and not waits:
                began = moment
                if self._others is not None:
                    self._others.forget()
            waits = over
            window = window_of(patience)
            if waits and moment - began > window and not being_debugged(os.getpid()):
                found = self._culprits(window)
                if found and not self._over.is_set():
                    self._end(found)

    def _culprits(self, window: float) -> list[int]:
        return [self.rank] if self._others is None else self._others.culprits(window)

    def _end(self, found: list[int]) -> None:
        text = self._told(found)
        write_stacks(self.run, self.rank)
        note_failure(text, primary=True)
        failure.tell(text)
        if self._others is None:
            within(GOODBYE, lambda: self._note(text), "note")
        else:
            speaks = self.rank == 0 or 0 in found  # else rank 0 hears of it
            self._others.tell_end(text, self._note if speaks else None)
            time.sleep(GOODBYE)
            self._others.kill(found)  # last: what started the ranks ends all as soon as one has
        failure.leave(1)

    def _note(self, text: str) -> None:
        with contextlib.suppress(OSError):  # it ends for want of this disk, perhaps
            self.note(text)

    def _told(self, found: list[int]) -> str:
        if self._others is None:
            return f"{hung(self.pulse.now)}; its stacks are in {STACKS}/"
        return f"{self._others.told(found)}; their stacks are in {STACKS}/"


def write_stacks(run: Path, rank: int) -> None:
    """Write the Python stacks of this process's threads into the run's folder, in bounded time."""

    def write() -> None:
        (run / STACKS).mkdir(exist_ok=True)
        with (run / STACKS / f"rank-{rank}.txt").open("w") as stream:
            faulthandler.dump_traceback(stream, all_threads=True)

    try:
        why = None if within(GOODBYE, write, "stacks") else "the disk does not answer"
    except OSError as error:
        why = error.strerror
    if why is not None:
        failure.say(f"pattlite: cannot write stacks: {why}")


@contextlib.contextmanager
def watched(
    pulse: Pulse, limits: Limits, run: Path, world: World, note: Callable[[str], None]
) -> Iterator[None]:
    """End this rank, and all others, if one of them hangs in the meantime. Collective."""
    if limits.hang_minutes == 0:
        yield
        return
    others = None
    if world.size > 1:
        gather = functools.partial(worlds.from_all, world)
        others = Others(failure.another_store(), world.rank, world.size, gather)
    failure.on_hang(lambda: write_stacks(run, world.rank))
    dog = Watchdog(pulse, limits, run, world.rank, others, note)
    dog.start()
    try:
        yield
    finally:
        dog.stop()
