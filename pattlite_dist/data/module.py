"""The Lightning side of the stream: loaders for a rank, and pixels prepared on its device."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray

from pattlite_dist.config import Config
from pattlite_dist.data.ahead import start_of
from pattlite_dist.data.augment import Preprocess, draw
from pattlite_dist.data.balance import Balance
from pattlite_dist.data.batch import Batch
from pattlite_dist.data.cache import Cache
from pattlite_dist.data.fetch import Origin
from pattlite_dist.data.folds import folds_of
from pattlite_dist.data.loader import BatchDataset, BatchLoader, TrainLoader, eval_loader
from pattlite_dist.data.mix import draw_mixing, mixed, mixes
from pattlite_dist.data.plan import TrainPlan, rank_slice
from pattlite_dist.data.reader import ShardReader
from pattlite_dist.data.resident import Resident, fits
from pattlite_dist.data.sampler import TrainSampler
from pattlite_dist.data.schedule import augment_at, side_at
from pattlite_dist.data.settings import AugmentConfig, DataConfig
from pattlite_dist.data.targets import Targets, given_targets
from pattlite_dist.data.trust import default_cache, part_of_this_node
from pattlite_dist.runtime import world as worlds
from pattlite_dist.runtime.devices import use_gpu
from pattlite_dist.runtime.world import World
from pattlite_dist.shards.manifest import Manifest, SplitName

L = TypeVar("L", bound=BatchLoader)


def origin(data: DataConfig) -> Origin:
    """Where the configured shards lie."""
    return Origin(data.shards, data.allow_pipe, data.retries, data.timeout_seconds)


def open_split(data: DataConfig, manifest: Manifest, split: SplitName) -> ShardReader:
    """Random access to one split of the configured shards, by way of the configured cache."""
    cache = Cache(
        part_of_this_node(Path(data.cache) if data.cache else default_cache()),
        None if data.cache_gb is None else int(data.cache_gb * 1e9),
    )
    # A score on samples other than the manifest's is meaningless: evaluation always stops.
    policy = data.bad_shards if split == "train" else "stop"
    return ShardReader(origin(data), manifest, split, cache, policy)


class FERData(pl.LightningDataModule):
    """Streams a shard set to one rank.

    Attributes:
        waiting: see `BatchLoader`.

    Args:
        config: of the run.
        world: which rank this is.
        preprocess: pixels to model input.
        manifest: of the shards at `config.data.shards`.
    """

    def __init__(
        self, config: Config, world: World, preprocess: Preprocess, manifest: Manifest
    ) -> None:
        super().__init__()
        self.config, self.world, self.preprocess = config, world, preprocess
        self.manifest = manifest
        self.waiting: Callable[[], None] = lambda: None
        self._loaders: list[BatchLoader] = []
        self._resident: Resident | None = None
        self._shares: torch.Tensor | None = None

    def plan(self) -> TrainPlan:
        """The global batches of the run."""
        sizes = np.array([one.samples for one in self.manifest.shards.get("train", [])], np.int64)
        if self._kept is not None:
            sizes = np.diff(np.searchsorted(self._kept, np.cumsum(sizes)), prepend=0)
        return TrainPlan(
            sizes=sizes[sizes > 0],
            seed=self.config.seed,
            window=self.config.data.window,
            global_batch=self.config.trainer.global_batch,
            tail=self.config.data.tail,
            kept=self._kept,
            chosen=None if self._balance is None else self._balance.epoch,
        )

    @functools.cached_property
    def _kept(self) -> NDArray[np.int64] | None:
        """Ids of the samples outside the fold that is left out; None if none is."""
        data = self.config.data
        if data.folds == 1:
            return None
        (kept,) = np.nonzero(folds_of(self.reader("train"), data.folds) != data.fold)
        return kept

    def said_of_fold(self) -> str | None:
        """What to say of the samples that are left out; None if none are."""
        if self._kept is None:
            return None
        data, samples = self.config.data, self.manifest.samples("train")
        return (
            f"leaves out fold {data.fold} of {data.folds}: {samples - len(self._kept):,} of "
            f"{samples:,} training samples"
        )

    @functools.cached_property
    def _balance(self) -> Balance | None:
        """None if each sample is seen once; else all labels are read before the first step."""
        config = self.config
        if not config.data.balance:
            return None
        labels = self.reader("train").labels()
        if self._kept is not None:
            labels = labels[self._kept]
        return Balance(labels, len(self.manifest.labels), config.data.balance, config.seed)

    @functools.cached_property
    def targets(self) -> Targets | None:
        """Those in the file that `data.targets` names, at the temperature of the run."""
        found = given_targets(self.config.data, self.manifest)
        return None if found is None else found.at(self.config.distill.temperature)

    def _soft(self, device: torch.device) -> torch.Tensor | None:
        """The shares of all training samples, on a device, where they are moved once."""
        if self._shares is None and self.targets is not None:
            self._shares = torch.from_numpy(self.targets.shares).to(device)
        return self._shares

    def reader(self, split: SplitName) -> ShardReader:
        """Random access to one split."""
        reader = open_split(self.config.data, self.manifest, split)
        reader.start = start_of(self.world.rank)
        return reader

    def train_dataloader(self) -> TrainLoader:
        """This rank's share of every global batch."""
        data, reader = self.config.data, self.reader("train")
        device = worlds.device(self.world, self.config.trainer.accelerator)
        if fits(self.manifest, device) if data.resident == "auto" else data.resident:
            self._resident = Resident(reader, device)
        loader = TrainLoader(
            self._resident or reader,
            self.plan(),
            self.world.rank,
            self.world.size,
            0 if self._resident else data.workers,
            self._start_method(),
            self.manifest.fingerprint(),
            use_gpu(self.config.trainer.accelerator),
            mixes(self.config.augment),
            self.config.trainer.epochs,
        )
        return self._kept_open(loader)

    def eval_dataloader(self, split: SplitName) -> BatchLoader:
        """Every sample of a split once over all ranks."""
        loader = eval_loader(
            self.reader(split),
            self.config.trainer.eval_batch,
            self.world.rank,
            self.world.size,
            self.config.data.workers,
            self._start_method(),
            use_gpu(self.config.trainer.accelerator),
        )
        return self._kept_open(loader)

    def _kept_open(self, loader: L) -> L:
        loader.waiting = lambda: self.waiting()
        self._loaders.append(loader)
        return loader

    def _start_method(self) -> str | None:
        # A process that is forked after CUDA has started must not use it, nor may its libraries.
        chosen = self.config.data.start_method
        gpu = use_gpu(self.config.trainer.accelerator)
        return "forkserver" if gpu and chosen is None else chosen

    def val_dataloader(self) -> BatchLoader:
        """Every val sample once over all ranks."""
        return self.eval_dataloader("val")

    def close(self) -> None:
        """End the loader processes, and what decodes ahead."""
        for loader in self._loaders:
            loader.close()

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> dict[str, Any]:
        """Move what a step computes with; the rest stays, and nothing waits for the copies."""
        needed = {"image", "label", "counts", "weight"}
        resident = self._resident if self.trainer and self.trainer.training else None
        soft = self._soft(device) if self.trainer and self.trainer.training else None
        if resident or soft is not None or self.trainer is None or not self.trainer.training:
            needed.add("id")
        if self.config.data.targets == "votes":
            needed.add("target")
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True)
            if name in needed and isinstance(value, torch.Tensor)
            else value
            for name, value in batch.items()
        }
        if resident:
            moved.update(resident.fill(moved["id"]))
        if soft is not None:
            moved["soft"] = soft[moved["id"]]
        return moved

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> dict[str, Any]:
        """Turn the uint8 images into the model's input, augmented and mixed while training."""
        training = self.trainer is not None and self.trainer.training
        ready: dict[str, Any] = {**batch, "image": self.prepare(batch, training)}
        return self._mix(ready) if training and mixes(self.config.augment) else ready

    def prepare(self, batch: Batch, training: bool) -> torch.Tensor:
        """The model's input, float32 [n, 3, size, size], for a batch already on its device."""
        if not training:
            return self.preprocess(batch["image"])
        config, epoch = self.config, batch["epoch"]
        whole = config.trainer.global_batch
        first = rank_slice(whole, self.world.rank, self.world.size).start
        places = np.arange(first, first + len(batch["image"])) % whole  # with its partner, if any
        augment = self._augment(epoch)
        parameters = draw(augment, config.seed, epoch, batch["step"], whole, places)
        return self.preprocess(batch["image"], parameters, side_at(config.data, epoch))

    def seen(self, epoch: int, step: int) -> dict[str, Any]:
        """A step's whole global batch as the network sees it, on whatever number of ranks.

        Args:
            epoch: from 0.
            step: of the epoch, from 0.
        """
        partners = mixes(self.config.augment)
        sampler = TrainSampler(self.plan(), 0, 1, partners)
        sampler.epoch, sampler.start = epoch, step
        batch = BatchDataset(self.reader("train"))[next(iter(sampler))]
        if isinstance(batch, Exception):
            raise batch
        ready: dict[str, Any] = {**batch, "image": self.prepare(batch, True)}
        return self._mix(ready) if partners else ready

    def _augment(self, epoch: int) -> AugmentConfig:
        # The trainer's number of epochs, which `trainer.max_minutes` may have lowered.
        last = self.trainer.max_epochs if self.trainer else self.config.trainer.epochs
        assert last is not None
        return augment_at(self.config.augment, epoch, last)

    def _mix(self, batch: dict[str, Any]) -> dict[str, Any]:
        config = self.config
        whole = config.trainer.global_batch
        part = rank_slice(whole, self.world.rank, self.world.size)
        epoch, step, size = batch["epoch"], batch["step"], batch["image"].shape[-1]
        mixing = draw_mixing(self._augment(epoch), config.seed, epoch, step, whole, part, size)
        soft = config.data.targets == "votes"
        return mixed(batch, mixing, len(self.manifest.labels), soft)
