"""What the ranks tell each other of what they do, and because of whom all wait."""

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pattlite_dist.runtime.bounded import within
from pattlite_dist.runtime.pulse import Beat, Now, culprits

GOODBYE = 3.0  # seconds that a rank waits for the others, so that they write their stacks
_WORDS = {
    "start": "its start",
    "data": "a wait for data",
    "step": "a step",
    "save": "a save",
    "validation": "a validation",
    "epoch end": "an epoch's end",
}


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
                seen = f", last seen in {_at(beat)}" if beat else ""
                parts.append(f"{where} stopped answering{seen}")
            else:
                parts.append(f"{where} {hung(beat)}")
        return ", ".join(parts)

    def tell_end(self, text: str, note: Callable[[str], None] | None) -> None:
        """Tell the others to end, and why, by what `failure.Watch` looks at.

        Several may find out at once, each in words of its own. The first one's are those of all,
        and one rank notes them before the others hear, who note only what is not noted yet. Where
        the store does not answer, each notes what it last saw.

        Args:
            text: why, in one line.
            note: adds to the run's history; None for a rank that leaves it to others.
        """
        answered = threading.Event()

        def noted(what: str) -> None:
            if note is not None:  # the run hangs for want of its disk, perhaps
                within(GOODBYE / 2, lambda: note(what), "note")

        def tell() -> None:
            with contextlib.suppress(Exception):
                told = self._store.compare_set("hang", "", text).decode()
                first = note is None or self._store.add("noted", 1) == 1
                answered.set()
                if first:
                    noted(told)
                    self._store.compare_set("failed", "", told)

        within(GOODBYE, tell, "goodbye")
        if not answered.is_set():
            noted(text)

    def kill(self, found: list[int]) -> None:
        """End those that cannot, where they are on this machine."""
        host = self.who[self._rank][0]
        for rank in set(found) - {self._rank}:
            if self.who[rank][0] == host:
                with contextlib.suppress(OSError):
                    os.kill(self.who[rank][1], signal.SIGKILL)


def hung(now: Now | Beat) -> str:
    """What to say of a rank that takes too long at what it does."""
    return f"hung in {_at(now)}"


def _at(now: Now | Beat) -> str:
    return f"{_WORDS[now.phase]} at step {now.step:,}"


def being_debugged(process: int) -> bool:
    """Whether a debugger holds a process of this machine."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("TracerPid:"):
                return line.split()[1] != "0"
    return False
