"""From checked shards to batches on the model's device: plan, reader, loader, augmentation."""
