"""Random access to the samples of a split, gathered from memory-mapped shards."""

import logging
import mmap
from collections import OrderedDict
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pattlite_dist.data.cache import Cache
from pattlite_dist.data.fetch import Origin
from pattlite_dist.errors import UserError
from pattlite_dist.shards.manifest import ImageInfo, Manifest, ShardInfo, SplitName
from pattlite_dist.shards.tario import Block, decode_shard

_log = logging.getLogger(__name__)
_META = 8  # bytes after a record's pixels: int64, the label and, 32 bits up, the flags
_MOST_OPEN = 512  # each costs a file descriptor
_TOUCHED = 64 << 20  # bytes of mapped pages that a reader may hold in its memory
_FAULT = 64 << 10  # the kernel maps so much around a page that is touched

BadShards = Literal["stop", "skip"]
Records = NDArray[np.uint8]


class _BadShard(UserError):
    """A shard that cannot be had, or is not what the manifest says."""


class Gathered(NamedTuple):
    """Samples, and which of them are what was asked for.

    Attributes:
        block: the samples.
        good: bool [n]; False where another sample stands in for one of a shard left out.
    """

    block: Block
    good: NDArray[np.bool_]


class ShardReader:
    """Gathers samples of one split by their ids, whichever shards they lie in.

    A shard is fetched, checked and decoded by the first process of the node that needs it, and
    lies in the cache as records of pixels, label and flags; all processes map the same file.
    Opened maps do not travel to other processes, so a reader can be pickled for any start method.

    Args:
        origin: of the shards.
        manifest: describes them.
        split: which of them.
        cache: of this node.
        bad_shards: what to do about a shard that stays bad: stop, or take samples of the next
            good shard in its place, which do not count.
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
        self.image: ImageInfo = manifest.image
        self.shards: list[ShardInfo] = list(manifest.shards.get(split, []))
        self._ends = np.cumsum([shard.samples for shard in self.shards], dtype=np.int64)
        self._starts = self._ends - [shard.samples for shard in self.shards]
        self._pixels = int(np.prod(self.image.shape))
        self._open: OrderedDict[int, tuple[mmap.mmap, Records]] = OrderedDict()
        self._mapped = self._touched = 0  # bytes
        self._bad: set[int] = set()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict(), "_mapped": 0, "_touched": 0}

    def gather(self, ids: NDArray[np.int64]) -> Gathered:
        """The samples with these ids, in this order.

        Raises:
            UserError: a shard cannot be had or is not what the manifest says.
            IndexError: an id is not one of the split's.
        """
        if len(ids) and not 0 <= ids.min() <= ids.max() < len(self):
            raise IndexError(f"an id is not in 0 to {len(self) - 1}")
        shard_of = np.searchsorted(self._ends, ids, side="right")
        places = ids - self._starts[shard_of]
        good = np.ones(len(ids), bool)
        maps: dict[int, Records] = {}
        for number in set(shard_of.tolist()):
            used, maps[number] = self._usable(number)
            if used != number:
                bad = shard_of == number
                good[bad] = False
                places[bad] %= self.shards[used].samples
        records = np.empty((len(ids), self._pixels + _META), np.uint8)
        if len(ids):
            rows = [maps[s][i] for s, i in zip(shard_of.tolist(), places.tolist(), strict=True)]
            np.concatenate(rows, out=records.reshape(-1))
        self._let_go(len(ids))
        images = np.ascontiguousarray(records[:, : self._pixels])
        meta = np.ascontiguousarray(records[:, self._pixels :]).view("<i8")[:, 0]
        block = Block(
            images.reshape(len(ids), *self.image.shape),
            meta & 0xFFFFFFFF,
            (meta >> 32).astype(np.uint8),
        )
        return Gathered(block, good)

    def _usable(self, number: int) -> tuple[int, Records]:
        """A shard's records; where it is bad and may be left out, the next good one's."""
        for candidate in (*range(number, len(self.shards)), *range(number)):
            if candidate in self._bad:
                continue
            try:
                return candidate, self._records(candidate)
            except _BadShard as error:
                if self.bad_shards == "stop":
                    raise
                self._bad.add(candidate)
                _log.warning("left out of this run: %s", error)
        raise UserError(f"no shard of {self.origin.root} is good; create the shards again")

    def _records(self, number: int) -> Records:
        """A shard's records, uint8 [samples, pixels + meta], from the map opened last or anew."""
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number][1]
        shard = self.shards[number]
        shape = (shard.samples, self._pixels + _META)
        pages = self.cache.open(shard.sha256, shape[0] * shape[1], lambda: self._decode(shard))
        records = np.frombuffer(pages, np.uint8, shape[0] * shape[1]).reshape(shape)
        self._open[number] = (pages, records)
        self._mapped += records.nbytes
        if len(self._open) > _MOST_OPEN:
            _, (_, oldest) = self._open.popitem(last=False)
            self._mapped -= oldest.nbytes
        return records

    def _decode(self, shard: ShardInfo) -> Records:
        where = self.origin.shown(shard.name)
        try:
            block = self.origin.read(
                shard.name,
                lambda data: decode_shard(data, shard, self.image, where),
                most=shard.bytes + 1,
            )
        except UserError as error:
            raise _BadShard(str(error)) from error
        records = np.empty((shard.samples, self._pixels + _META), np.uint8)
        records[:, : self._pixels] = block.images.reshape(shard.samples, -1)
        meta = block.labels | block.flags.astype(np.int64) << 32
        records[:, self._pixels :] = meta.astype("<i8")[:, None].view(np.uint8)
        return records

    def _let_go(self, samples: int) -> None:
        """Hand mapped pages back from time to time, so that memory is flat in the data's size.

        They stay in the node's page cache, shared by all ranks; touching them again is cheap.
        """
        self._touched += samples * max(self._pixels, _FAULT)
        if min(self._touched, self._mapped) > _TOUCHED:
            for pages, _ in self._open.values():
                pages.madvise(mmap.MADV_DONTNEED)
            self._touched = 0
