"""Ends a run that hangs: a thread of each rank that waits too long finds out because of whom.

It asks the other ranks by their common store. Either one of them is silent, stopped or lost, or all
take longer than ever at what they do. Then each writes the stacks of its threads into the run's
folder and ends, so that the run can be started again. A rank that only takes its time, and a pause
that all share, are no hang.
"""

import contextlib
import faulthandler
import functools
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pattlite_dist.runtime import failure
from pattlite_dist.runtime import world as worlds
from pattlite_dist.runtime.elastic import note_failure
from pattlite_dist.runtime.pulse import Beat, Limits, Pulse, culprits
from pattlite_dist.runtime.world import World

STACKS = "stacks"  # folder in the run's
_EVERY = 1.0  # seconds between two looks
_PAUSE = 5.0  # seconds between two looks that mean that this process stood still
_WINDOW = (5.0, 30.0)  # seconds without news until a rank counts as silent, least and most
_GOODBYE = 3.0  # seconds that the others have to write their stacks


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
        others: "Others | None",
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
            window = min(max(patience / 4, _WINDOW[0]), _WINDOW[1])
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
        if self.rank == 0 or 0 in found:  # else rank 0 hears of it
            self.note(text)
        failure.tell(text)
        if self._others is not None:
            self._others.tell_end(text)
            time.sleep(_GOODBYE)
            self._others.kill(found)  # last: what started the ranks ends all as soon as one has
        sys.stdout.flush()
        os._exit(1)

    def _told(self, found: list[int]) -> str:
        if self._others is None:
            now = self.pulse.now
            return f"hung in {_WORDS[now.phase]} at step {now.step:,}; its stacks are in {STACKS}/"
        return f"{self._others.told(found)}; their stacks are in {STACKS}/"


class Others:
    """The other ranks, as far as their store answers.

    A store whose rank is stopped answers never: a thread of its own waits for it.

    Args:
        store: common to the ranks, by a connection of its own.
        rank: this.
        size: number of ranks.
        gather: a value of each rank. Fails where one has ended, for which the store would wait.
    """

    def __init__(
        self, store: Any, rank: int, size: int, gather: Callable[[Any], list[Any]]
    ) -> None:
        self._store, self._rank, self._size = store, rank, size
        self._beat: Beat | None = None
        self._count = 0
        self._seen: dict[int, list[Any]] = {}
        self._first: dict[int, int] = {}
        self._news = threading.Event()
        self._answered = time.monotonic()
        # A beat at once: of a rank that stops within its first second there would be none.
        self._publish(Beat(rank, "start", 0, over=False))
        self.who: list[tuple[str, int]] = gather((socket.gethostname(), os.getpid()))
        threading.Thread(target=self._exchange, name="pattlite-beats", daemon=True).start()

    def _publish(self, beat: Beat) -> None:
        self._store.set(f"beat-{self._rank}", json.dumps([self._count, *beat]))

    def tell(self, beat: Beat) -> None:
        """Tell the others what this rank does."""
        self._beat = beat
        self._news.set()

    def forget(self) -> None:
        """Begin to look for news."""
        self._first = {}

    def _exchange(self) -> None:
        names = [f"beat-{rank}" for rank in range(self._size)]
        with contextlib.suppress(Exception):  # the store ended with rank 0
            while self._news.wait():
                self._news.clear()
                beat = self._beat
                assert beat is not None
                self._count += 1
                self._publish(beat)
                if beat.over:
                    for rank, value in enumerate(self._store.multi_get(names)):
                        self._seen[rank] = json.loads(value)
                        self._first.setdefault(rank, self._seen[rank][0])
                self._answered = time.monotonic()

    def culprits(self, window: float) -> list[int]:
        """Because of whom all wait, by the news since `forget`.

        Args:
            window: seconds in which the store of rank 0 answers, if it ever will.
        """
        if time.monotonic() - self._answered > window:
            return [] if self._is_debugged(0) else [0]
        seen = dict(self._seen)
        silent = {rank for rank, beat in seen.items() if beat[0] == self._first.get(rank)}
        if self._rank in silent or any(self._is_debugged(rank) for rank in silent):
            return []
        return culprits([Beat(*beat[1:]) for beat in seen.values()], silent)

    def _is_debugged(self, rank: int) -> bool:
        host, process = self.who[rank]
        return host == self.who[self._rank][0] and being_debugged(process)

    def told(self, found: list[int]) -> str:
        """What to say of the ranks because of which all wait."""
        parts = []
        for rank in found:
            beat = Beat(*self._seen[rank][1:]) if rank in self._seen else None
            where = f"rank {rank} on {self.who[rank][0]}"
            if beat is None or self._seen[rank][0] == self._first.get(rank):
                # Up to a second before it stopped, in which it may have taken many steps.
                seen = f", last seen in {_WORDS[beat.phase]} at step {beat.step:,}" if beat else ""
                parts.append(f"{where} stopped answering{seen}")
            else:
                parts.append(f"{where} hung in {_WORDS[beat.phase]} at step {beat.step:,}")
        return ", ".join(parts)

    def tell_end(self, text: str) -> None:
        """Tell the others to end, and why."""

        def tell() -> None:
            with contextlib.suppress(Exception):
                failure.tell_hang(self._store, text)

        thread = threading.Thread(target=tell, daemon=True)
        thread.start()
        thread.join(_GOODBYE)

    def kill(self, found: list[int]) -> None:
        """End those that cannot, where they are on this machine."""
        host = self.who[self._rank][0]
        for rank in set(found) - {self._rank}:
            if self.who[rank][0] == host:
                with contextlib.suppress(OSError):
                    os.kill(self.who[rank][1], signal.SIGKILL)


_WORDS = {
    "start": "its start",
    "data": "a wait for data",
    "step": "a step",
    "save": "a save",
    "validation": "a validation",
    "epoch end": "an epoch's end",
}


def write_stacks(run: Path, rank: int) -> None:
    """Write the Python stacks of this process's threads into the run's folder."""
    try:
        (run / STACKS).mkdir(exist_ok=True)
        with (run / STACKS / f"rank-{rank}.txt").open("w") as stream:
            faulthandler.dump_traceback(stream, all_threads=True)
    except OSError as error:
        print(f"pattlite: cannot write stacks: {error.strerror}", file=sys.stderr, flush=True)


def being_debugged(process: int) -> bool:
    """Whether a debugger holds a process of this machine."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("TracerPid:"):
                return line.split()[1] != "0"
    return False


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
