"""A DataLoader that follows the plan: exact, resumable, the same for any number of ranks."""

import atexit
import multiprocessing
import weakref
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from typing import Any, NamedTuple, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from pattlite_dist.compat.torch import (
    forget_iterator,
    loader_processes,
    running_iterator,
    shut_down,
)
from pattlite_dist.data.plan import EvalPlan, TrainPlan, rank_slice
from pattlite_dist.data.reader import ShardReader
from pattlite_dist.errors import UserError
from pattlite_dist.runtime.signals import held_back, ignore_in_loader


class Place(NamedTuple):
    """One rank's batch, as the sampler hands it to the dataset."""

    epoch: int
    step: int
    ids: NDArray[np.int64]
    counts: NDArray[np.bool_]


class _Samples(TypedDict):
    image: torch.Tensor
    label: torch.Tensor
    flags: torch.Tensor
    id: torch.Tensor
    counts: torch.Tensor
    epoch: int
    step: int


class Batch(_Samples, total=False):
    """What a loader yields.

    `image` is uint8 [n, C, H, W]; `label` and `id` int64, `flags` uint8 and `counts` bool, each
    [n]. A sample that does not count is padding. `target`, float32 [n, classes], is there where
    the set has shares of the classes beside the label.
    """

    target: torch.Tensor


class BatchDataset(Dataset["Batch | UserError"]):
    """Map-style: a place in the plan goes in, the gathered batch comes out."""

    def __init__(self, reader: ShardReader) -> None:
        self.reader = reader

    def __getitem__(self, place: Place) -> "Batch | UserError":
        try:
            block, good = self.reader.gather(place.ids)
        except UserError as error:
            return error  # raised in a loader process it would arrive with a traceback
        batch = Batch(
            image=torch.from_numpy(block.images),
            label=torch.from_numpy(block.labels),
            flags=torch.from_numpy(block.flags),
            id=torch.from_numpy(place.ids),
            counts=torch.from_numpy(place.counts & good),
            epoch=place.epoch,
            step=place.step,
        )
        if block.targets is not None:
            batch["target"] = torch.from_numpy(block.targets)
        return batch


def _as_it_is(batch: Any) -> Any:
    """Nothing to collate: the dataset yields whole batches of tensors."""
    return batch


class BatchLoader(DataLoader[Batch]):
    """Yields the batches of a sampler's places, gathered in-process or by loader processes.

    Args:
        reader: of the split.
        sampler: of one rank.
        workers: loader processes; 0 gathers in-process.
        start_method: of those processes; None is the system's.
    """

    def __init__(
        self, reader: ShardReader, sampler: Sampler[Place], workers: int, start_method: str | None
    ) -> None:
        super().__init__(
            BatchDataset(reader),  # type: ignore[arg-type]
            batch_size=None,
            sampler=sampler,
            collate_fn=_as_it_is,
            num_workers=workers,
            multiprocessing_context=start_method if workers else None,
            persistent_workers=workers > 0,
            worker_init_fn=ignore_in_loader,
        )

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        # A generator, so that workers start to read only when the first batch is asked for.
        starts = self.num_workers > 0 and running_iterator(self) is None  # they outlive an epoch
        if starts:
            _start_helper(self.multiprocessing_context)
        with held_back():
            batches: Any = super().__iter__()
        if starts:
            # Where nobody calls `close`: multiprocessing would ask them by SIGTERM to end, of which
            # they take no notice, and wait. Registered last, this comes first.
            atexit.register(_close, weakref.ref(self), loader_processes(batches))
        for batch in batches:
            if isinstance(batch, UserError):
                raise batch
            yield batch

    def close(self) -> None:
        """End the loader processes, which take no notice of signals."""
        iterator = running_iterator(self)
        if iterator is None:
            return
        forget_iterator(self)
        shut_down(iterator)
        for process in loader_processes(iterator):
            process.kill()  # one that hangs would hold up the end of this process
            process.join()


def _close(loader: Callable[[], "BatchLoader | None"], processes: list[Any]) -> None:
    found = loader()
    if found is not None:
        found.close()
    for process in processes:  # one that hung when its loader was let go
        process.kill()


def _start_helper(context: Any) -> None:
    """Start multiprocessing's own process before the loader's, where these are not forked.

    Once it runs it lets SIGTERM and SIGINT through again, which the processes started after it
    inherit, be they held back or not.
    """
    if (context or multiprocessing).get_start_method() != "fork":
        with held_back():
            resource_tracker.ensure_running()


class TrainSampler(Sampler[Place]):
    """One rank's batches of one epoch, from any step on.

    `epoch` and `start` are the place in the data of the next batch to be handed over. The length
    is always that of the whole epoch: Lightning counts the batches that a resumed epoch has
    behind it.
    """

    def __init__(self, plan: TrainPlan, rank: int, world: int) -> None:
        rank_slice(plan.global_batch, rank, world)  # an uneven share is an error here, not later
        self.plan, self.rank, self.world = plan, rank, world
        self.epoch, self.start = 0, 0

    def __len__(self) -> int:
        return self.plan.steps

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of `epoch`, unless already inside it. Lightning calls this."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def advance(self, epoch: int, step: int) -> None:
        """Note that a batch has been handed over."""
        ended = step + 1 == self.plan.steps
        self.epoch, self.start = (epoch + 1, 0) if ended else (epoch, step + 1)

    def __iter__(self) -> Iterator[Place]:
        epoch = self.epoch  # `advance` moves on while workers still read ahead
        for step in range(self.start, self.plan.steps):
            ids = self.plan.batch(epoch, step, self.rank, self.world)
            yield Place(epoch, step, ids, np.ones(len(ids), bool))


class EvalSampler(Sampler[Place]):
    """One rank's batches of an evaluation."""

    def __init__(self, plan: EvalPlan, rank: int) -> None:
        self.plan, self.rank = plan, rank

    def __len__(self) -> int:
        return self.plan.steps

    def __iter__(self) -> Iterator[Place]:
        for step in range(self.plan.steps):
            yield Place(0, step, *self.plan.batch(step, self.rank))


def eval_loader(
    reader: ShardReader,
    batch_size: int,
    rank: int,
    world: int,
    workers: int = 0,
    start_method: str | None = None,
) -> BatchLoader:
    """A loader that visits every sample of the reader's split once over all ranks."""
    sampler = EvalSampler(EvalPlan(len(reader), batch_size, world), rank)
    return BatchLoader(reader, sampler, workers, start_method)


class TrainLoader(BatchLoader):
    """A resumable loader for training.

    Its state is the number of samples that all ranks together have consumed since the start of
    the run. It does not name ranks, so another number of them can load it.

    Args:
        reader: of the training split.
        plan: of the whole run.
        rank: of this process.
        world: number of processes.
        workers: loader processes; 0 gathers in-process.
        start_method: of those processes; None is the system's.
        fingerprint: of the manifest, so that a state is not loaded onto other data.
    """

    sampler: TrainSampler

    def __init__(
        self,
        reader: ShardReader,
        plan: TrainPlan,
        rank: int,
        world: int,
        workers: int = 0,
        start_method: str | None = None,
        fingerprint: str = "",
    ) -> None:
        super().__init__(reader, TrainSampler(plan, rank, world), workers, start_method)
        self.fingerprint = fingerprint

    def set_epoch(self, epoch: int) -> None:
        """Begin the next iteration at the start of `epoch`, unless already inside it."""
        self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        for batch in super().__iter__():
            # Counted as it is handed over, not as the workers read ahead.
            self.sampler.advance(batch["epoch"], batch["step"])
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """The place in the data, in plain numbers and text."""
        plan = self.sampler.plan
        return {
            "consumed": plan.consumed(self.sampler.epoch, self.sampler.start),
            "seed": plan.seed,
            "global_batch": plan.global_batch,
            "manifest": self.fingerprint,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with the very next batch.

        Raises:
            UserError: the state belongs to another seed, global batch, or shard set.
        """
        here = self.state_dict()
        for key in ("seed", "global_batch", "manifest"):
            if state[key] != here[key]:
                raise UserError(
                    f"the checkpoint continues a run with {key} {state[key]}, this one has "
                    f"{here[key]}; restore it, or train under another name"
                )
        self.sampler.epoch, self.sampler.start = self.sampler.plan.position(state["consumed"])
