"""Random access to the samples of a split, gathered from memory-mapped shards."""

import copy
import dataclasses
import logging
import mmap
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pattlite_dist.data.cache import Cache
from pattlite_dist.data.fetch import Origin
from pattlite_dist.data.settings import DataConfig
from pattlite_dist.errors import Unreachable, UserError
from pattlite_dist.logins import without_secrets
from pattlite_dist.shards.manifest import ImageInfo, Manifest, ShardInfo, SplitName
from pattlite_dist.shards.tario import Block, decode_shard, has_targets

_log = logging.getLogger(__name__)
_META = 8  # bytes after a record's pixels: int64, the label in the low half, flags in the high half
_LAYOUT = 2  # version of a record; increment when the same shard gives different records
_MOST_OPEN = 512  # each costs a file descriptor
_TOUCHED = 64 << 20  # bytes of mapped pages that a reader may keep resident
_FAULT = 64 << 10  # the kernel maps this much around a touched page

BadShards = Literal["stop", "skip"]
Ids = NDArray[np.int64]


def check_targets(data: DataConfig, manifest: Manifest) -> None:
    """Check that the shards have the targets that the run trains on.

    Raises:
        UserError: `targets` is `votes` and the shards have labels only.
    """
    if data.targets == "votes" and not has_targets(manifest):
        raise UserError(
            f"{data.shards} has labels only, but data.targets is votes; create it with "
            "`--votes fer2013new.csv --target soft`, or set data.targets=labels"
        )


class _BadShard(UserError):
    """A shard that cannot be read, or is not what the manifest says."""


class Gathered(NamedTuple):
    """Samples, and which of them are the requested ones.

    Attributes:
        block: the samples.
        good: bool [n]; False where another sample replaces one from a skipped shard.
    """

    block: Block
    good: NDArray[np.bool_]


class ShardReader:
    """Gathers samples of one split by their ids, whichever shards they lie in.

    A shard is fetched, checked and decoded by the first process of the node that needs it, and
    stored in the cache as records of pixels, label, flags and, if the set has them, targets; all
    processes map the same file.
    Open maps are not pickled, so a reader works with any start method.

    Attributes:
        start: 0 to 1, where in a list of shards to begin to decode them; ranks that begin apart
            seldom meet.

    Args:
        origin: of the shards.
        manifest: describes them.
        split: which of them.
        cache: of this node.
        bad_shards: what to do about a shard that stays bad: stop, or take samples from the next
            good shard instead, which do not count.
    """

    def __init__(
        self,
        origin: Origin,
        manifest: Manifest,
        split: SplitName,
        cache: Cache,
        bad_shards: BadShards = "stop",
    ) -> None:
        self.origin, self.cache, self.bad_shards = origin, cache, bad_shards
        self.start = 0.0
        self.image: ImageInfo = manifest.image
        self.shards: list[ShardInfo] = list(manifest.shards.get(split, []))
        samples = np.array([shard.samples for shard in self.shards], np.int64)
        self._ends: Ids = np.cumsum(samples)
        self._starts: Ids = self._ends - samples
        self._pixels = int(np.prod(self.image.shape))
        self._classes = len(manifest.labels) if has_targets(manifest) else 0  # of a target
        self._size = self._pixels + _META + 4 * self._classes
        self._open: dict[int, memoryview] = {}
        self._pages: dict[int, mmap.mmap] = {}
        self._mapped = self._touched = 0  # bytes
        self._bad: set[int] = set()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}, "_pages": {}, "_mapped": 0, "_touched": 0}

    def gather(self, ids: Ids) -> Gathered:
        """The samples with these ids, in this order.

        Raises:
            UserError: a shard cannot be read or is not what the manifest says.
            IndexError: an id is not in the split.
        """
        if len(ids) and ids.view(np.uint64).max() >= len(self):  # unsigned: negative ids are large
            raise IndexError(f"an id is not in 0 to {len(self) - 1}")
        shard_of = np.searchsorted(self._ends, ids, side="right")
        places = ids - self._starts[shard_of]
        good = np.ones(len(ids), bool)
        try:
            rows = self._rows(self._open, shard_of, places)
        except KeyError:
            maps: dict[int, memoryview] = {}
            numbers = sorted(set(shard_of.tolist()))
            self._share(numbers)
            for number in numbers:
                used, maps[number] = self._usable(number)
                if used != number:
                    bad = shard_of == number
                    good[bad] = False
                    places[bad] %= self.shards[used].samples
            rows = self._rows(maps, shard_of, places)
        # For rows of this size, join takes two thirds of the time of np.concatenate (measured).
        records = np.frombuffer(bytearray().join(rows), np.uint8).reshape(len(ids), self._size)
        self._let_go(len(ids))
        images = np.ascontiguousarray(records[:, : self._pixels])
        end = self._pixels + _META
        meta = np.ascontiguousarray(records[:, self._pixels : end]).view("<i8")[:, 0]
        targets = None
        if self._classes:
            shares = np.ascontiguousarray(records[:, end:]).view("<f4")
            targets = shares.astype(np.float32, copy=False)
        block = Block(
            images.reshape(len(ids), *self.image.shape),
            meta & 0xFFFFFFFF,
            (meta >> 32).astype(np.uint8),
            targets,
        )
        return Gathered(block, good)

    def labels(self) -> Ids:
        """Every sample's label; fetches and decodes what is not in the cache.

        Raises:
            UserError: a shard cannot be read or is not what the manifest says.
        """
        self._share(list(range(len(self.shards))))
        parts = []
        for number, shard in enumerate(self.shards):
            _, records = self._usable(number)
            rows = np.frombuffer(records, np.uint8).reshape(shard.samples, self._size)
            parts.append(rows[:, self._pixels : self._pixels + 4].copy().view("<u4")[:, 0])
            self._let_go(shard.samples)
        return np.concatenate(parts).astype(np.int64) if parts else np.empty(0, np.int64)

    def key(self, shard: ShardInfo) -> str:
        """A shard's name in the cache; it changes with the shard's bytes and the record layout."""
        return f"{shard.sha256}{_LAYOUT:02x}{self._classes:04x}"

    def shards_of(self, ids: Ids) -> list[int]:
        """The numbers of the shards that these samples lie in, ascending."""
        numbers: list[int] = np.unique(np.searchsorted(self._ends, ids, side="right")).tolist()
        return numbers

    def turned(self, numbers: list[int]) -> list[int]:
        """The same numbers, beginning where this reader begins."""
        first = int(self.start * len(numbers))
        return [*numbers[first:], *numbers[:first]]

    def twin(self) -> "ShardReader":
        """A reader for another thread: with a cache and maps of its own, and without retries."""
        twin = copy.copy(self)
        twin.cache = Cache(self.cache.folder, self.cache.limit)
        twin.origin = dataclasses.replace(self.origin, retries=0)
        return twin

    def fit(self, numbers: Iterable[int]) -> bool:
        """Whether the cache holds all these shards at the same time."""
        keys = {self.key(self.shards[n]): self.shards[n].samples * self._size for n in numbers}
        return self.cache.fit(keys)

    def prepare(self, number: int) -> None:
        """Put a shard into the cache, unless it is there, or another process is at it.

        Raises:
            UserError: it cannot be read or is not what the manifest says.
            Unreachable: its file system does not answer.
        """
        shard = self.shards[number]
        key, size = self.key(shard), shard.samples * self._size
        if not self.cache.keep(key, size):
            self.cache.open(key, size, lambda: self._decode(shard), wait=False)

    def _usable(self, number: int) -> tuple[int, memoryview]:
        """A shard's records, or those of the next good one if it is bad and may be skipped."""
        for candidate in (*range(number, len(self.shards)), *range(number)):
            if candidate in self._bad:
                continue
            try:
                records = self._records(candidate)
            except _BadShard as error:
                self._skip(candidate, error)
            else:
                assert records is not None
                return candidate, records
        raise UserError(
            f"no shard of {without_secrets(self.origin.root)} is good; create the shards again"
        )

    def _share(self, numbers: list[int]) -> None:
        """Open what is made, and make what no other process is making, which makes the rest."""
        for number in self.turned(numbers[:_MOST_OPEN]):
            if number not in self._bad:
                try:
                    self._records(number, wait=False)
                except _BadShard as error:
                    self._skip(number, error)

    def _skip(self, number: int, error: _BadShard) -> None:
        """Go on without a bad shard, if that is allowed."""
        if self.bad_shards == "stop":
            raise error
        self._bad.add(number)
        _log.warning("shard skipped for this run: %s", error)

    def _records(self, number: int, wait: bool = True) -> memoryview | None:
        """A shard's records, contiguous, in a map that stays open.

        None only if another process is making them, and this one does not wait.
        """
        if number in self._open:
            return self._open[number]
        shard = self.shards[number]
        size = shard.samples * self._size
        pages = self.cache.open(self.key(shard), size, lambda: self._decode(shard), wait)
        if pages is None:
            return None
        if len(self._open) == _MOST_OPEN:  # close the oldest: the epoch has moved on from it
            first = next(iter(self._open))
            self._mapped -= len(self._open.pop(first))
            del self._pages[first]
        self._open[number], self._pages[number] = memoryview(pages)[:size], pages
        self._mapped += size
        return self._open[number]

    def _rows(
        self, maps: dict[int, memoryview], shard_of: NDArray[np.intp], places: Ids
    ) -> list[memoryview]:
        size, begins = self._size, (places * self._size).tolist()
        return [
            maps[shard][begin : begin + size]
            for shard, begin in zip(shard_of.tolist(), begins, strict=True)
        ]

    def _decode(self, shard: ShardInfo) -> NDArray[np.uint8]:
        where = self.origin.shown(shard.name)
        try:
            block = self.origin.read(
                shard.name,
                lambda data: decode_shard(data, shard, self.image, where, self._classes > 0),
                most=shard.bytes + 1,
            )
        except UserError as error:
            raise _BadShard(str(error)) from error
        except Unreachable as error:
            if self.bad_shards == "stop":
                raise
            raise _BadShard(str(error)) from error
        records = np.empty((shard.samples, self._size), np.uint8)
        records[:, : self._pixels] = block.images.reshape(shard.samples, -1)
        meta = block.labels | block.flags.astype(np.int64) << 32
        end = self._pixels + _META
        records[:, self._pixels : end] = meta.astype("<i8")[:, None].view(np.uint8)
        if block.targets is not None:
            records[:, end:] = block.targets.astype("<f4").view(np.uint8)
        return records

    def _let_go(self, samples: int) -> None:
        """Release mapped pages from time to time, so memory does not grow with the data's size.

        They stay in the node's page cache, shared by all ranks; touching them again is cheap.
        """
        self._touched += samples * max(self._pixels, _FAULT)
        if min(self._touched, self._mapped) > _TOUCHED:
            for pages in self._pages.values():
                pages.madvise(mmap.MADV_DONTNEED)
            self._touched = 0
