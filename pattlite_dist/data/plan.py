"""Which sample is in which batch: pure functions of numbers, no torch and no I/O.

The order of an epoch depends on (seed, epoch, shard sizes, window) alone, and if it is balanced on
the labels. A rank takes its slice of each global batch, so neither the number of ranks nor an
interruption can change what a step sees.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pattlite_dist.data.settings import Tail
from pattlite_dist.errors import UserError

Ids = NDArray[np.int64]

# The purpose of a random stream is part of its counter, so no two streams overlap.
SHARDS, SAMPLES, AUGMENT, DROPOUT, MIX, BALANCE = 0, 1, 2, 3, 4, 5

_STRETCH = 1 << 16  # samples of an evaluation that are decoded ahead together


def raw_stream(seed: int, part: int, purpose: int, stream: int, n: int) -> NDArray[np.uint64]:
    """`n` random uint64 of stream (seed, part, purpose, stream); `part` is an epoch or a rank.

    Philox is counter-based (Salmon et al., SC 2011): any stream can start without the ones before.
    Only raw words are used: NumPy keeps them stable across versions, but not `permutation`.
    """
    bits = np.random.Philox(key=[seed, part], counter=[0, 0, stream, purpose])
    return bits.random_raw(n)


def _permutation(n: int, seed: int, epoch: int, purpose: int, stream: int) -> Ids:
    return np.argsort(raw_stream(seed, epoch, purpose, stream, n), kind="stable")


class EpochOrder:
    """The order of one epoch: shards permuted, then samples permuted inside windows of shards.

    Args:
        sizes: int64 [shards], samples per shard.
        seed: of the run.
        epoch: from 0.
        window: samples; a window holds as many whole shards as fit, and at least one.
        chosen: ids of the samples to order, ascending, repeated or left out; None: each once.
    """

    def __init__(
        self, sizes: Ids, seed: int, epoch: int, window: int, chosen: Ids | None = None
    ) -> None:
        self._seed, self._epoch, self._chosen = seed, epoch, chosen
        if chosen is not None:  # as if they were the shards' samples
            ends = np.searchsorted(chosen, np.cumsum(sizes))
            sizes = np.diff(ends, prepend=0)
        self._shards = _permutation(len(sizes), seed, epoch, SHARDS, 0)
        self._starts = np.concatenate([[0], np.cumsum(sizes)])[self._shards]
        self._ends = np.cumsum(sizes[self._shards])
        self._window_ends = _group(self._ends, window)
        self._place_ends = self._ends[self._window_ends - 1]
        self._cached: tuple[int, Ids] = (-1, np.empty(0, np.int64))

    def take(self, start: int, stop: int) -> Ids:
        """Sample ids (places in the manifest's natural order) at places `start` to `stop`."""
        parts = []
        while start < stop:
            number = self.window_at(start)
            begin = int(self._place_ends[number - 1]) if number else 0
            end = min(stop, int(self._place_ends[number]))
            parts.append(self._window(number)[start - begin : end - begin])
            start = end
        places = np.concatenate(parts) if parts else np.empty(0, np.int64)
        return places if self._chosen is None else self._chosen[places]

    def window_at(self, place: int) -> int:
        """The number of the window that a place is in."""
        return int(np.searchsorted(self._place_ends, place, side="right"))

    @property
    def windows(self) -> int:
        """How many there are."""
        return len(self._place_ends)

    def members(self, number: int) -> Ids:
        """The samples of a window, not in their order."""
        places = self._unordered(number)
        return places if self._chosen is None else self._chosen[places]

    def _window(self, number: int) -> Ids:
        if self._cached[0] != number:
            ids = self._unordered(number)
            order = _permutation(len(ids), self._seed, self._epoch, SAMPLES, number)
            self._cached = (number, ids[order])
        return self._cached[1]

    def _unordered(self, number: int) -> Ids:
        first = int(self._window_ends[number - 1]) if number else 0
        last = int(self._window_ends[number])
        begin = int(self._ends[first - 1]) if first else 0
        sizes = np.diff(self._ends[first:last], prepend=begin)
        places = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        ids: Ids = np.repeat(self._starts[first:last], sizes) + places
        return ids


def _group(ends: Ids, window: int) -> Ids:
    """For each window, the number of shards up to its end.

    Hops from window to window, so that a million shards cost as many steps as there are windows.
    """
    result, first, begin = [], 0, 0
    while first < len(ends):
        last = max(first + 1, int(np.searchsorted(ends, begin + window, side="right")))
        result.append(last)
        first, begin = last, int(ends[last - 1])
    return np.array(result, np.int64)


@dataclass(frozen=True, eq=False)  # by identity: a million sizes are not compared at every step
class TrainPlan:
    """The global batches of every epoch.

    Attributes:
        sizes: int64 [shards], samples per shard, in the manifest's order.
        seed: of the run.
        window: samples shuffled together.
        global_batch: samples per step over all ranks.
        tail: what happens to an epoch's last, short global batch. It is filled from the beginning
            of the same epoch, and what fills it does not count (`pad`) or counts again (`wrap`);
            or it is left out (`drop`).
        chosen: the ids of an epoch's samples, ascending, as many as there are in the shards, if it
            does not take each once; see `balance`.
        kept: ids of the samples that take part, ascending, if not all do; `sizes` count only these.
    """

    sizes: Ids | Sequence[int]
    seed: int
    window: int
    global_batch: int
    tail: Tail = "pad"
    chosen: Callable[[int], Ids] | None = None
    kept: Ids | None = None
    samples: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", np.asarray(self.sizes, np.int64))
        object.__setattr__(self, "samples", int(np.sum(self.sizes)))
        if self.steps == 0:
            raise UserError(
                f"{self.samples} training samples do not fill one global batch of "
                f"{self.global_batch}; lower trainer.global_batch or set data.tail to pad"
            )

    @property
    def steps(self) -> int:
        """Steps in an epoch, the same for every epoch and rank."""
        whole, rest = divmod(self.samples, self.global_batch)
        return whole + (1 if rest and self.tail != "drop" else 0)

    def counting(self, step: int) -> int:
        """How many samples of a step's global batch count: all, except in a padded last one."""
        left = self.samples - step * self.global_batch
        return min(left, self.global_batch) if self.tail == "pad" else self.global_batch

    def position(self, consumed: int) -> tuple[int, int]:
        """The (epoch, step) that follows `consumed` samples since the start of the run."""
        return divmod(consumed // self.global_batch, self.steps)

    def consumed(self, epoch: int, step: int) -> int:
        """Samples consumed before a step: the single number that locates a run in its data."""
        return (epoch * self.steps + step) * self.global_batch

    def batch(self, epoch: int, step: int, rank: int = 0, world: int = 1) -> Ids:
        """Sample ids, int64 [global_batch / world], of one rank's slice of a global batch.

        The first `counting(step)` of the global batch count.
        """
        part = rank_slice(self.global_batch, rank, world)
        first = step * self.global_batch
        start, stop = first + part.start, first + part.stop
        order = _epoch_order(self, epoch)
        ids = order.take(min(start, self.samples), min(stop, self.samples))
        while start + len(ids) < stop:  # filled; more than once if there are few samples
            place = (start + len(ids)) % self.samples
            more = min(stop - start - len(ids), self.samples - place)
            ids = np.concatenate([ids, order.take(place, place + more)])
        return ids if self.kept is None else self.kept[ids]

    def window_at(self, epoch: int, step: int) -> int:
        """The number of the window in which a step begins."""
        return _epoch_order(self, epoch).window_at(step * self.global_batch)

    def members(self, epoch: int, window: int) -> Ids:
        """Ids of the samples of a window, in no particular order."""
        ids = _epoch_order(self, epoch).members(window)
        return ids if self.kept is None else self.kept[ids]

    def following(self, epoch: int, window: int) -> tuple[int, int]:
        """The epoch and number of the next window."""
        last = window + 1 == _epoch_order(self, epoch).windows
        return (epoch + 1, 0) if last else (epoch, window + 1)


@lru_cache(maxsize=2)  # the order of a large manifest takes tens of megabytes
def _epoch_order(plan: TrainPlan, epoch: int) -> EpochOrder:
    chosen = None if plan.chosen is None else plan.chosen(epoch)
    return EpochOrder(np.asarray(plan.sizes), plan.seed, epoch, plan.window, chosen)


def rank_slice(global_batch: int, rank: int, world: int) -> slice:
    """The places of one rank in a global batch.

    Raises:
        UserError: the batch cannot be split evenly over the ranks.
    """
    if global_batch % world:
        raise UserError(
            f"a global batch of {global_batch} cannot be shared by {world} ranks; "
            f"make trainer.global_batch a multiple of {world}"
        )
    share = global_batch // world
    return slice(rank * share, (rank + 1) * share)


@dataclass(frozen=True)
class EvalPlan:
    """Every sample once, in natural order, in batches of the same size on every rank.

    The last batches are padded with sample 0 at weight 0: all ranks take the same number of equal
    steps, and nothing is counted twice.
    """

    samples: int
    batch_size: int
    world: int

    @property
    def steps(self) -> int:
        """Steps on every rank."""
        return -(-self.samples // (self.batch_size * self.world))

    def batch(self, step: int, rank: int) -> tuple[Ids, NDArray[np.bool_]]:
        """Sample ids, int64 [batch_size], and whether each counts, bool [batch_size]."""
        first = (step * self.world + rank) * self.batch_size
        places = np.arange(first, first + self.batch_size)
        counts = places < self.samples
        return np.where(counts, places, 0), counts

    def window_at(self, epoch: int, step: int) -> int:
        """The number of the stretch of samples in which a step begins."""
        return step * self.world * self.batch_size // _STRETCH

    def members(self, epoch: int, window: int) -> Ids:
        """Ids of the samples of a stretch."""
        return np.arange(window * _STRETCH, min((window + 1) * _STRETCH, self.samples))

    def following(self, epoch: int, window: int) -> tuple[int, int] | None:
        """The epoch and number of the next stretch; None if there is none."""
        return (epoch, window + 1) if (window + 1) * _STRETCH < self.samples else None
