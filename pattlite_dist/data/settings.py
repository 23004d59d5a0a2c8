"""Data settings: which shards to stream and how, and augmentation."""

from itertools import pairwise
from pathlib import Path
from typing import Literal

from pydantic import field_validator, model_validator

from pattlite_dist.location import GOALS, Folder, Goal, Location
from pattlite_dist.logins import put_away
from pattlite_dist.settings import Strict, setting

Tail = Literal["pad", "wrap", "drop"]
_SMALLEST, _LARGEST = 48, 224  # sides of the model's input


class DataConfig(Strict):
    """Which shards to stream, and how."""

    shards: Location = setting(
        "shards/fer2013",
        free=True,
        description="Where manifest.json is: a folder, or an http(s)://, s3:// or gs:// address. A "
        "login or signature in it is used and not stored.",
    )
    image_size: int = setting(
        64,
        free=False,
        ge=_SMALLEST,
        le=_LARGEST,
        description="Side of the model's input in pixels.",
    )
    image_sizes: tuple[tuple[int, int], ...] = setting(
        (),
        free=False,
        description="Smaller sides to train on first, as [first epoch, side] pairs up to that of "
        "image_size, as in [[0,48],[20,64]]. Validation always has image_size.",
    )
    window: int = setting(
        131072,
        free=False,
        ge=1,
        description="Samples shuffled together: whole shards up to this many.",
    )
    tail: Tail = setting(
        "pad",
        free=False,
        description="An incomplete last global batch is filled from the epoch's start, which does "
        "not count (pad) or counts again (wrap), or is left out (drop).",
    )
    balance: float = setting(
        0.0,
        free=False,
        ge=0,
        le=1,
        description="How often an epoch sees each class: as often as it has samples, each once (0) "
        "to all equally often (1); in proportion to their number to the power of 1 - balance.",
    )
    workers: int = setting(
        0, free=True, ge=0, description="Loader processes per rank; 0 reads in-process."
    )
    start_method: Literal["fork", "forkserver", "spawn"] | None = setting(
        None, free=True, description="How loader processes start; default: the system's."
    )
    resident: bool | Literal["auto"] = setting(
        "auto",
        free=True,
        description="Keep the training set on the device; auto: on a GPU if it takes less than a "
        "quarter of the free memory.",
    )
    cache: Folder | None = setting(
        None,
        free=True,
        description="Folder for decoded shards; default: the job's temporary folder.",
    )
    cache_gb: float | None = setting(
        None,
        free=True,
        gt=0,
        description="Maximum cache size in gigabytes, the oldest shards are deleted; default: nine "
        "tenths of the free disk space; where the disk is memory, at most half of that.",
    )
    allow_pipe: bool = setting(
        False, free=True, description="Let `pipe:` shard URLs run a shell command."
    )
    retries: int = setting(
        4, free=True, ge=0, description="Retries for a shard that could not be fetched."
    )
    timeout_seconds: float = setting(
        60.0,
        free=True,
        gt=0,
        description="Seconds without data after which a connection or a command is aborted.",
    )
    targets: Goal = setting(
        "labels",
        free=False,
        description="Training target: the label (labels), each class's share of the FER+ votes "
        "(votes; requires shards created with `--target soft`), or those in a file of `pattlite "
        "targets`.",
    )
    folds: int = setting(
        1,
        free=False,
        ge=1,
        le=100,
        description="Divide the training samples into this many parts by their images, copies into "
        "the same one, and leave one out of training; 1: train on all.",
    )
    fold: int = setting(
        0, free=False, ge=0, description="The part that is left out, from 0 to folds - 1."
    )
    bad_shards: Literal["stop", "skip"] = setting(
        "stop",
        free=True,
        description="If a training shard stays bad: stop, or skip it, counted and logged.",
    )

    @property
    def targets_file(self) -> Path | None:
        """The file that `targets` names, if it names one."""
        return None if self.targets in GOALS else Path(self.targets)

    @model_validator(mode="after")
    def _sizes_in_order(self) -> "DataConfig":
        epochs, sides = zip(*self.image_sizes, strict=True) if self.image_sizes else ((), ())
        if epochs and (epochs[0] != 0 or any(a >= b for a, b in pairwise(epochs))):
            raise ValueError("the first epochs of image_sizes do not begin at 0 and rise")
        if sides and not _SMALLEST <= min(sides) <= max(sides) <= _LARGEST:
            raise ValueError(f"a side in image_sizes is not from {_SMALLEST} to {_LARGEST}")
        if sides and sides[-1] != self.image_size:
            raise ValueError(
                f"the last side in image_sizes, {sides[-1]}, is not image_size {self.image_size}"
            )
        return self

    @model_validator(mode="after")
    def _a_fold_of_those(self) -> "DataConfig":
        if self.fold >= self.folds:
            raise ValueError(f"fold {self.fold} is not one of {self.folds} (from 0)")
        if self.folds > 1 and self.bad_shards == "skip":
            raise ValueError("folds above 1 requires every image; set data.bad_shards=stop")
        return self

    @field_validator("shards")
    @classmethod
    def _without_secrets(cls, address: str) -> str:
        # Here, because a configuration is stored in many places.
        return put_away(address)

    @model_validator(mode="after")
    def _labels_for_balance(self) -> "DataConfig":
        if self.balance and self.bad_shards == "skip":
            raise ValueError(
                "data.balance requires the labels of every shard; set data.bad_shards=stop"
            )
        return self


class AugmentConfig(Strict):
    """Augmentation of training images; 0 disables a transform."""

    flip: float = setting(
        0.5, free=False, ge=0, le=1, description="Probability of a horizontal flip."
    )
    rotation: float = setting(
        10.0,
        free=False,
        ge=0,
        le=180,
        description="Largest rotation in degrees, in either direction.",
    )
    shift: float = setting(
        0.0, free=False, ge=0, le=0.5, description="Largest shift, as a fraction of the side."
    )
    scale: float = setting(
        0.0, free=False, ge=0, lt=1, description="Zoom factor from 1 - scale to 1 + scale."
    )
    crop: tuple[float, float] | None = setting(
        None,
        free=False,
        description="Smallest and largest area of a random resized crop, as fractions of the "
        "image; default: no crop.",
    )
    crop_aspect: tuple[float, float] = setting(
        (3 / 4, 4 / 3),
        free=False,
        description="Smallest and largest width of a crop in heights.",
    )
    brightness: float = setting(
        0.0, free=False, ge=0, le=1, description="Largest shift of the 0-1 grey level."
    )
    contrast: float = setting(
        0.0, free=False, ge=0, lt=1, description="Contrast factor from 1 - c to 1 + c."
    )
    erasing: float = setting(
        0.0, free=False, ge=0, le=1, description="Probability of erasing a rectangle."
    )
    erasing_area: tuple[float, float] = setting(
        (0.02, 0.2),
        free=False,
        description="Smallest and largest erased area, as fractions of the image.",
    )
    mixup: float = setting(
        0.0,
        free=False,
        ge=0,
        description="Blend an image and its target with those of the next one of the batch: alpha "
        "of mixup, whose share is drawn from Beta(alpha, alpha).",
    )
    cutmix: float = setting(
        0.0,
        free=False,
        ge=0,
        description="Paste a rectangle of the next image of the batch, and its area's share of the "
        "target: alpha of cutmix.",
    )
    mix_prob: float = setting(
        1.0, free=False, ge=0, le=1, description="Probability that an image is mixed at all."
    )
    mix_switch: float = setting(
        0.5,
        free=False,
        ge=0,
        le=1,
        description="Probability of cutmix instead of mixup, if both are on.",
    )
    calm_epochs: int = setting(
        0,
        free=False,
        ge=0,
        description="Last epochs, in which nothing is mixed or erased and the rest is weaker.",
    )
    calm_share: float = setting(
        0.5,
        free=False,
        ge=0,
        le=1,
        description="What these have of rotation, shift, scale, crop, brightness and contrast.",
    )
    mean: tuple[float, float, float] | None = setting(
        None,
        free=False,
        description="Normalisation mean per channel, 0-1; default: the backbone's.",
    )
    std: tuple[float, float, float] | None = setting(
        None,
        free=False,
        description="Normalisation standard deviation per channel, 0-1; default: the backbone's.",
    )

    @model_validator(mode="after")
    def _in_range(self) -> "AugmentConfig":
        smallest, largest = self.erasing_area
        if not 0 < smallest <= largest <= 1:
            raise ValueError(
                f"erasing_area {smallest}, {largest} does not satisfy 0 < smallest <= largest <= 1"
            )
        if self.crop is not None and not 0 < self.crop[0] <= self.crop[1] <= 1:
            raise ValueError(f"crop {self.crop} does not satisfy 0 < smallest <= largest <= 1")
        if not 0 < self.crop_aspect[0] <= self.crop_aspect[1]:
            raise ValueError(
                f"crop_aspect {self.crop_aspect} does not satisfy 0 < smallest <= largest"
            )
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"std {self.std} is not positive")
        return self
