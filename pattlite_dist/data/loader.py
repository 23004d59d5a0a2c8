"""A DataLoader that follows the plan: exact, resumable, independent of the number of ranks."""

import atexit
import multiprocessing
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from pattlite_dist.compat.torch import (
    forget_iterator,
    loader_processes,
    running_iterator,
    shut_down,
    timed_out,
)
from pattlite_dist.data.ahead import Ahead
from pattlite_dist.data.batch import Batch, frame
from pattlite_dist.data.handover import cannot_start, ready_to_send
from pattlite_dist.data.plan import EvalPlan, TrainPlan
from pattlite_dist.data.reader import ShardReader
from pattlite_dist.data.sampler import EvalSampler, Place, TrainSampler
from pattlite_dist.errors import Unreachable, UserError
from pattlite_dist.runtime.limits import fewer_cores
from pattlite_dist.runtime.signals import held_back, ignore_in_loader, start_helpers

_LOOK = 2.0  # seconds after which a rank that waits for its loader processes looks up


class BatchDataset(Dataset["Batch | UserError | Unreachable"]):
    """Map-style dataset: maps a place in the plan to the gathered batch.

    Args:
        reader: of the split.
        ahead: decodes what comes after a place; None: each shard when it is needed.
    """

    def __init__(self, reader: ShardReader, ahead: Ahead | None = None) -> None:
        self.reader, self.ahead = reader, ahead

    def __getitem__(self, place: Place) -> "Batch | UserError | Unreachable":
        if self.ahead is not None:
            self.ahead.at(place.epoch, place.step)
        try:
            block, good = self.reader.gather(place.ids)
        except (UserError, Unreachable) as error:
            return error  # raised in a loader process, it would arrive with a traceback
        batch = frame(place, good)
        batch["image"] = torch.from_numpy(block.images)
        batch["label"] = torch.from_numpy(block.labels)
        batch["flags"] = torch.from_numpy(block.flags)
        if block.targets is not None:
            batch["target"] = torch.from_numpy(block.targets)
        try:
            return ready_to_send(batch)
        except UserError as error:
            return error


def _as_it_is(batch: Any) -> Any:
    """Nothing to collate: the dataset yields whole batches of tensors."""
    return batch


class BatchLoader(DataLoader[Batch]):
    """Yields the batches at a sampler's places, gathered in-process or by loader processes.

    Attributes:
        waiting: called every few seconds while there is no batch; what it raises ends the wait.

    Args:
        dataset: maps a place to its batch.
        sampler: of one rank.
        workers: number of loader processes; 0 gathers in-process.
        start_method: of those processes; None uses the system's default.
        pin: put batches into memory from which a GPU copies without being waited for.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        sampler: Sampler[Place],
        workers: int,
        start_method: str | None,
        pin: bool = False,
    ) -> None:
        super().__init__(
            dataset,
            batch_size=None,
            sampler=sampler,
            collate_fn=_as_it_is,
            num_workers=workers,
            multiprocessing_context=start_method if workers else None,
            persistent_workers=workers > 0,
            pin_memory=pin,
            timeout=_LOOK if workers else 0,
            worker_init_fn=ignore_in_loader,
        )
        self.waiting: Callable[[], None] | None = None
        allowed = fewer_cores()
        if allowed is not None and workers > allowed:  # PyTorch asks the affinity only
            warnings.warn(
                f"data.workers is {workers}, but the CPU quota allows each rank's processes "
                f"{allowed} core(s) together; lower it, or raise the quota",
                stacklevel=2,
            )

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        # A generator, so that workers start reading only when the first batch is requested.
        starts = self.num_workers > 0 and running_iterator(self) is None  # they outlive an epoch
        try:
            if starts:
                start_helpers(self.multiprocessing_context)
                (self.multiprocessing_context or multiprocessing).Lock()  # else `__del__` complains
            with held_back():
                batches: Any = super().__iter__()
        except OSError as error:
            raise cannot_start(error) from error
        if starts:
            # In case `close` is never called: multiprocessing would send SIGTERM, which they
            # ignore, and then wait. Registered last, this runs first.
            atexit.register(_close, weakref.ref(self), loader_processes(batches))
        for batch in self._waited_for(batches):
            if isinstance(batch, UserError | Unreachable):
                raise batch
            yield batch

    def _waited_for(self, batches: Any) -> Iterator[Any]:
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                if not timed_out(error):
                    raise
                if self.waiting is not None:
                    self.waiting()
            else:
                yield batch

    def close(self) -> None:
        """Stop the loader processes, which ignore signals, and what decodes ahead."""
        if isinstance(self.dataset, BatchDataset) and self.dataset.ahead is not None:
            self.dataset.ahead.stop()
        iterator = running_iterator(self)
        if iterator is None:
            return
        forget_iterator(self)
        shut_down(iterator)
        for process in loader_processes(iterator):
            process.kill()  # a hanging one would keep this process from exiting
            process.join()


def _close(loader: Callable[[], "BatchLoader | None"], processes: list[Any]) -> None:
    found = loader()
    if found is not None:
        found.close()
    for process in processes:  # one that hung when its loader was released
        process.kill()


def eval_loader(
    reader: ShardReader,
    batch_size: int,
    rank: int,
    world: int,
    workers: int = 0,
    start_method: str | None = None,
    pin: bool = False,
) -> BatchLoader:
    """A loader that visits every sample of the reader's split exactly once over all ranks."""
    plan = EvalPlan(len(reader), batch_size, world)
    dataset = BatchDataset(reader, Ahead(reader, plan))
    return BatchLoader(dataset, EvalSampler(plan, rank), workers, start_method, pin)


class TrainLoader(BatchLoader):
    """A resumable loader for training.

    Its state is the number of samples consumed by all ranks since the start of the run. It does
    not depend on ranks, so it can be loaded with a different number of them.

    Args:
        source: reader of the training split, or a dataset that maps a place to its batch.
        plan: of the whole run.
        rank: of this process.
        world: number of processes.
        workers: number of loader processes; 0 gathers in-process.
        start_method: of those processes; None uses the system's default.
        fingerprint: of the manifest, so that a state is not loaded with other data.
        pin: see `BatchLoader`.
        partners: see `TrainSampler`.
        epochs: of the run, after which nothing is decoded ahead; None if not known.
    """

    sampler: TrainSampler

    def __init__(
        self,
        source: ShardReader | Dataset[Any],
        plan: TrainPlan,
        rank: int,
        world: int,
        workers: int = 0,
        start_method: str | None = None,
        fingerprint: str = "",
        pin: bool = False,
        partners: bool = False,
        epochs: int | None = None,
    ) -> None:
        if isinstance(source, ShardReader):
            source = BatchDataset(source, Ahead(source, plan, epochs))
        sampler = TrainSampler(plan, rank, world, partners)
        super().__init__(source, sampler, workers, start_method, pin)
        self.fingerprint, self._waited = fingerprint, 0.0

    def set_epoch(self, epoch: int) -> None:
        """Begin the next iteration at the start of `epoch`, unless already in it."""
        self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        begin = time.perf_counter()
        for batch in super().__iter__():
            # Counted when it is yielded, not when workers read ahead.
            self.sampler.advance(batch["epoch"], batch["step"])
            self._waited += time.perf_counter() - begin
            yield batch
            begin = time.perf_counter()

    def take_wait(self) -> float:
        """Seconds that batches were waited for since this was last asked."""
        waited, self._waited = self._waited, 0.0
        return waited

    def state_dict(self) -> dict[str, Any]:
        """The position in the data, as plain numbers and text."""
        plan = self.sampler.plan
        return {
            "consumed": plan.consumed(self.sampler.epoch, self.sampler.start),
            "seed": plan.seed,
            "global_batch": plan.global_batch,
            "manifest": self.fingerprint,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with the batch after the last one consumed.

        Raises:
            UserError: the state belongs to a different seed, global batch, or shard set.
        """
        here = self.state_dict()
        for key in ("seed", "global_batch", "manifest"):
            if state[key] != here[key]:
                raise UserError(
                    f"the checkpoint is of a run with {key} {state[key]}, this run has "
                    f"{here[key]}; restore it, or train under another name"
                )
        self.sampler.epoch, self.sampler.start = self.sampler.plan.position(state["consumed"])
