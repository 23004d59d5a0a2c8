"""A shelf in memory that fails as networks and stores do, and a process that is killed."""

import io
import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from pattlite_dist.buckets.shelf import Gone, Held
from pattlite_dist.stores import Transient


class Killed(BaseException):
    """The process is gone at this operation."""


class Objects:
    """What is in a bucket; shared by those who use it."""

    def __init__(self) -> None:
        self.held: dict[str, Held] = {}
        self.clock = 0.0
        self._versions = itertools.count()

    def write(self, key: str, data: bytes) -> Any:
        self.held[key] = Held(data, next(self._versions), self.clock)
        return self.held[key].version


class Memory:
    """A shelf on shared objects.

    Args:
        objects: of the bucket.
        dies_at: the operation, counted from 0, at which the process is killed.
        after: whether that operation is done nevertheless.
        faults: of a seeded network: the chance that an operation fails; whether it was done is
            chance as well, and a deletion may be done much later.
    """

    def __init__(
        self,
        objects: Objects,
        dies_at: int | None = None,
        after: bool = False,
        faults: random.Random | None = None,
        chance: float = 0.3,
    ) -> None:
        self.objects, self.dies_at, self.after = objects, dies_at, after
        self.faults, self.chance = faults, chance
        self.count = 0
        self.late: list[Callable[[], object]] = []

    def _do(self, work: Callable[[], Any]) -> Any:
        number, self.count = self.count, self.count + 1
        if number == self.dies_at:
            if self.after:
                work()
            raise Killed
        if self.faults is None or self.faults.random() > self.chance:
            return work()
        kind = self.faults.choice(["cut", "unanswered", "late"])
        if kind == "unanswered":
            work()
        if kind == "late":
            self.late.append(work)
        if self.late and self.faults.random() < 0.5:
            self.late.pop(self.faults.randrange(len(self.late)))()
        raise Transient("503")

    def get(self, key: str) -> Held | None:
        found: Held | None = self._do(lambda: self.objects.held.get(key))
        return found

    def chunks(self, key: str) -> Iterator[bytes]:
        held = self.get(key)
        if held is None:
            raise Gone(key)
        yield held.data[:5]
        yield held.data[5:]

    def put(self, key: str, stream: BinaryIO) -> None:
        data = stream.read()
        self._do(lambda: self.objects.write(key, data))

    def swap(self, key: str, data: bytes, version: Any) -> Any:
        def work() -> Any:
            held = self.objects.held.get(key)
            if (None if held is None else held.version) != version:
                return None
            return {"tag": self.objects.write(key, data)}["tag"]

        return self._do(work)

    def delete(self, keys: list[str]) -> None:
        for key in keys:
            self._do(lambda key=key: self.objects.held.pop(key, None))  # type: ignore[misc]

    def keys(self, prefix: str) -> list[str]:
        found: list[str] = self._do(
            lambda: [key for key in self.objects.held if key.startswith(f"{prefix}/")]
        )
        return found

    def folders(self) -> list[str]:
        return []


def stream(data: bytes) -> io.BytesIO:
    return io.BytesIO(data)
