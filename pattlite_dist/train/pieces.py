"""In how many pieces a rank computes its share of a batch, and how few images they have."""

from pattlite_dist.train.settings import TrainerConfig


def pieces_of(config: TrainerConfig, ranks: int) -> int:
    """In how many pieces a rank computes its share of a global batch; none of them is empty.

    Args:
        config: of the run.
        ranks: how many share the global batch.
    """
    share = -(-config.global_batch // ranks)
    asked = -(-share // (config.max_batch_per_rank or share))
    size = -(-share // max(asked, config.accumulate))
    return -(-share // size)


_FEW = 8  # images; BatchNorm's statistics of fewer are mostly noise (arXiv:1803.08494, figure 1)


def few_images(config: TrainerConfig, ranks: int, synchronised: bool = False) -> str | None:
    """What to say of so many ranks, if BatchNorm sees too few images at a time; else None.

    Args:
        config: of the run.
        ranks: how many train.
        synchronised: whether BatchNorm sees the images of all of them at a time.
    """
    apart = 1 if synchronised else ranks
    images = -(-config.global_batch // (apart * pieces_of(config, ranks)))
    if images >= _FEW:
        return None
    cure = "fewer ranks or pieces, or a larger trainer.global_batch"
    if apart > 1:
        cure += ", or on GPUs model.sync_batchnorm=true"
    return (
        f"BatchNorm computes its statistics over {images} images at a time, which is few; use "
        f"{cure}"
    )
