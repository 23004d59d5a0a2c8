"""The places of one rank's batches in the plan, in order, from any step on."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from pattlite_dist.data.plan import EvalPlan, TrainPlan, rank_slice


class Place(NamedTuple):
    """One rank's batch, as the sampler passes it to the dataset.

    `weight` is that of each sample that counts.
    """

    epoch: int
    step: int
    ids: NDArray[np.int64]
    counts: NDArray[np.bool_]
    weight: float = 1.0


class TrainSampler(Sampler[Place]):
    """One rank's batches of one epoch, starting at any step.

    `epoch` and `start` are the position of the next batch to be yielded. The length is always that
    of the whole epoch: Lightning includes the batches that a resumed epoch has already done.

    Args:
        plan: of the whole run.
        rank: of this process.
        world: number of processes.
        partners: whether a batch has one place more, which does not count: the one after its last
            in the global batch, where the first follows the last. See `data.mix`.
    """

    def __init__(self, plan: TrainPlan, rank: int, world: int, partners: bool = False) -> None:
        rank_slice(plan.global_batch, rank, world)  # raises here, not later, if the share is uneven
        self.plan, self.rank, self.world, self.partners = plan, rank, world, partners
        self.epoch, self.start = 0, 0

    def __len__(self) -> int:
        return self.plan.steps

    def set_epoch(self, epoch: int) -> None:
        """Move to the start of `epoch`, unless already in it. Called by Lightning."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def advance(self, epoch: int, step: int) -> None:
        """Record that a batch has been yielded."""
        ended = step + 1 == self.plan.steps
        self.epoch, self.start = (epoch + 1, 0) if ended else (epoch, step + 1)

    def __iter__(self) -> Iterator[Place]:
        epoch = self.epoch  # `advance` changes it while workers are reading ahead
        plan, part = self.plan, rank_slice(self.plan.global_batch, self.rank, self.world)
        for step in range(self.start, plan.steps):
            counting = plan.counting(step)
            counts = np.arange(part.start, part.stop) < counting
            ids = plan.batch(epoch, step, self.rank, self.world)
            if self.partners:
                following = plan.batch(epoch, step, (self.rank + 1) % self.world, self.world)
                ids, counts = np.append(ids, following[0]), np.append(counts, False)
            yield Place(epoch, step, ids, counts, plan.global_batch / counting)


class EvalSampler(Sampler[Place]):
    """One rank's batches of an evaluation."""

    def __init__(self, plan: EvalPlan, rank: int) -> None:
        self.plan, self.rank = plan, rank

    def __len__(self) -> int:
        return self.plan.steps

    def __iter__(self) -> Iterator[Place]:
        for step in range(self.plan.steps):
            yield Place(0, step, *self.plan.batch(step, self.rank))
