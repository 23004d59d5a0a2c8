"""Begins an epoch with two loader processes and comes to an end: for `tests.data.test_loader`."""

import sys

from pattlite_dist.config import Config
from pattlite_dist.data.augment import Preprocess
from pattlite_dist.data.fetch import fetch_manifest
from pattlite_dist.data.module import FERData, origin
from pattlite_dist.runtime.world import World

config = Config.model_validate(
    {"data": {"shards": sys.argv[1], "workers": 2}, "trainer": {"global_batch": 8}}
)
manifest = fetch_manifest(origin(config.data))
data = FERData(config, World(), Preprocess(48, (0, 0, 0), (1, 1, 1)), manifest)
batches = iter(data.train_dataloader())
next(batches)
