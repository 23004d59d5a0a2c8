"""What changes from epoch to epoch: the side of training images, and how they are augmented."""

from pattlite_dist.data.settings import AugmentConfig, DataConfig


def side_at(data: DataConfig, epoch: int) -> int:
    """The side of the training images of an epoch, pixels."""
    begun = [side for first, side in data.image_sizes if first <= epoch]
    return begun[-1] if begun else data.image_size


def augment_at(config: AugmentConfig, epoch: int, epochs: int) -> AugmentConfig:
    """The augmentation of an epoch of `epochs`."""
    return config if epoch < epochs - config.calm_epochs else calmed(config)


def calmed(config: AugmentConfig) -> AugmentConfig:
    """Without mixing and erasing, and `calm_share` of the rest; a flip stays as likely."""
    share = config.calm_share
    weaker = {
        name: getattr(config, name) * share
        for name in ("rotation", "shift", "scale", "brightness", "contrast")
    }
    crop = config.crop and tuple(1 - (1 - area) * share for area in config.crop)
    aspect = tuple(ratio**share for ratio in config.crop_aspect)
    off = {"erasing": 0.0, "mixup": 0.0, "cutmix": 0.0}
    return config.model_copy(update={**weaker, **off, "crop": crop, "crop_aspect": aspect})
