"""Decodes the shards that come next, in a thread, while the present ones are trained on.

It only fills the cache: what a step sees does not depend on it. Whatever goes wrong here is met
again, and told, when the samples' turn comes.
"""

import threading
from typing import Any

from pattlite_dist.data.plan import EvalPlan, TrainPlan
from pattlite_dist.data.reader import ShardReader
from pattlite_dist.errors import Unreachable, UserError

_GOLDEN = 0.6180339887498949  # its multiples, modulo 1, are far from each other
_PATIENCE = 1.0  # seconds that a shard being read at the end is waited for


def start_of(number: int) -> float:
    """Where in a list the n-th of any number of readers begins, 0 to 1, far from its neighbours."""
    return number * _GOLDEN % 1


class Ahead:
    """Of one reader, in the process that gathers; at most one thread, which ends with its work.

    When a window begins, it decodes what of that window is not in the cache, then the next window,
    which may be the next epoch's first. It passes over what another process is decoding, and does
    nothing for which the cache has no room.

    Args:
        reader: of the split.
        plan: of its samples.
        epochs: after which nothing comes; None if not known.
    """

    def __init__(
        self, reader: ShardReader, plan: TrainPlan | EvalPlan, epochs: int | None = None
    ) -> None:
        self.reader, self.plan, self.epochs = reader, plan, epochs
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        names = ("reader", "plan", "epochs")
        return {name: self.__dict__[name] for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def _forget(self) -> None:
        self._here: tuple[int, int] | None = None
        self._thread: threading.Thread | None = None
        self._over = threading.Event()

    def at(self, epoch: int, step: int) -> None:
        """Note that a step's batch is wanted now."""
        here = (epoch, self.plan.window_at(epoch, step))
        if here == self._here:
            return
        self._here = here
        self._over.set()
        self._over = threading.Event()
        self._thread = threading.Thread(
            target=self._work, args=(*here, self._over, self._thread), name="pattlite-ahead",
            daemon=True,
        )  # fmt: skip
        self._thread.start()

    def stop(self) -> None:
        """Decode no more."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(_PATIENCE)
        self._here = self._thread = None

    def _work(
        self, epoch: int, window: int, over: threading.Event, before: threading.Thread | None
    ) -> None:
        if before is not None:
            before.join()
        try:
            reader = self.reader.twin()
            for number in self._wanted(reader, epoch, window):
                if over.is_set():
                    return
                self._prepare(reader, number)
        except (UserError, OSError):  # of the cache
            return

    def _wanted(self, reader: ShardReader, epoch: int, window: int) -> list[int]:
        """Shards to decode, as far as the cache has room for them."""
        now = reader.shards_of(self.plan.members(epoch, window))
        following = self.plan.following(epoch, window)
        coming: list[int] = []
        if following is not None and (self.epochs is None or following[0] < self.epochs):
            inside = set(now)
            members = reader.shards_of(self.plan.members(*following))
            coming = [number for number in members if number not in inside]
        if not reader.fit([*now, *coming]):
            coming = []
        if not coming and not reader.fit(now):
            return []
        return [*reader.turned(now), *reader.turned(coming)]

    @staticmethod
    def _prepare(reader: ShardReader, number: int) -> None:
        try:
            reader.prepare(number)
        except (UserError, Unreachable):
            return
