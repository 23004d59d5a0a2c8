"""From checked shards to batches on the model's device: plan, reader, loader, augmentation."""

from pattlite_dist.data.stream import as_webdataset

__all__ = ["as_webdataset"]
