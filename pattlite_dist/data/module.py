"""The Lightning side of the stream: loaders for a rank, and pixels prepared on its device."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from pattlite_dist.config import Config
from pattlite_dist.data.augment import Preprocess, draw
from pattlite_dist.data.cache import Cache, default_cache
from pattlite_dist.data.fetch import Origin
from pattlite_dist.data.loader import Batch, BatchLoader, TrainLoader, eval_loader
from pattlite_dist.data.plan import TrainPlan, rank_slice
from pattlite_dist.data.reader import ShardReader
from pattlite_dist.data.settings import DataConfig
from pattlite_dist.runtime.world import World
from pattlite_dist.shards.manifest import Manifest, SplitName


def origin(data: DataConfig) -> Origin:
    """Where the configured shards lie."""
    return Origin(data.shards, data.allow_pipe, data.retries, data.timeout_seconds)


class FERData(pl.LightningDataModule):
    """Streams a shard set to one rank.

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
        self._loaders: list[BatchLoader] = []

    def plan(self) -> TrainPlan:
        """The global batches of the run."""
        return TrainPlan(
            sizes=[shard.samples for shard in self.manifest.shards["train"]],
            seed=self.config.seed,
            window=self.config.data.window,
            global_batch=self.config.trainer.global_batch,
            tail=self.config.data.tail,
        )

    def reader(self, split: SplitName) -> ShardReader:
        """Random access to one split."""
        data = self.config.data
        cache = Cache(
            Path(data.cache) if data.cache else default_cache(),
            None if data.cache_gb is None else int(data.cache_gb * 1e9),
        )
        # A score on samples other than the manifest's is meaningless: evaluation always stops.
        policy = data.bad_shards if split == "train" else "stop"
        return ShardReader(origin(data), self.manifest, split, cache, policy)

    def train_dataloader(self) -> TrainLoader:
        """This rank's share of every global batch."""
        loader = TrainLoader(
            self.reader("train"),
            self.plan(),
            self.world.rank,
            self.world.size,
            self.config.data.workers,
            self.config.data.start_method,
            self.manifest.fingerprint(),
        )
        self._loaders.append(loader)
        return loader

    def eval_dataloader(self, split: SplitName) -> BatchLoader:
        """Every sample of a split once over all ranks."""
        loader = eval_loader(
            self.reader(split),
            self.config.trainer.eval_batch,
            self.world.rank,
            self.world.size,
            self.config.data.workers,
            self.config.data.start_method,
        )
        self._loaders.append(loader)
        return loader

    def val_dataloader(self) -> BatchLoader:
        """Every val sample once over all ranks."""
        return self.eval_dataloader("val")

    def close(self) -> None:
        """End the loader processes."""
        for loader in self._loaders:
            loader.close()

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> dict[str, Any]:
        """Turn the uint8 images into the model's input, augmented while training."""
        training = self.trainer is not None and self.trainer.training
        return {**batch, "image": self.prepare(batch, training)}

    def prepare(self, batch: Batch, training: bool) -> torch.Tensor:
        """The model's input, float32 [n, 3, size, size], for a batch already on its device."""
        if not training:
            return self.preprocess(batch["image"])
        config = self.config
        whole = config.trainer.global_batch
        part = rank_slice(whole, self.world.rank, self.world.size)
        parameters = draw(config.augment, config.seed, batch["epoch"], batch["step"], whole, part)
        return self.preprocess(batch["image"], parameters)
