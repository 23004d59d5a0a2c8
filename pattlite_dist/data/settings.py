"""Settings of the data: which shards to stream and how, and what may happen to an image."""

from typing import Literal

from pydantic import model_validator

from pattlite_dist.location import Location
from pattlite_dist.settings import Strict, setting


class DataConfig(Strict):
    """Which shards to stream, and how."""

    shards: Location = setting(
        "shards/fer2013",
        free=True,
        description="What holds manifest.json: a folder, or an http(s)://, s3:// or gs:// address.",
    )
    image_size: int = setting(
        64, free=False, ge=48, le=224, description="Side of the model's input, pixels."
    )
    window: int = setting(
        131072,
        free=False,
        ge=1,
        description="Samples shuffled together: whole shards up to this many.",
    )
    tail: Literal["drop", "wrap"] = setting(
        "drop",
        free=False,
        description="An epoch's last, short global batch: left out, or filled from its start.",
    )
    workers: int = setting(
        0, free=True, ge=0, description="Loader processes a rank; 0 reads in-process."
    )
    start_method: Literal["fork", "forkserver", "spawn"] | None = setting(
        None, free=True, description="How loader processes start; default: the system's way."
    )
    cache: Location | None = setting(
        None,
        free=True,
        description="Folder for decoded shards; default: the job's temporary folder.",
    )
    cache_gb: float | None = setting(
        None,
        free=True,
        gt=0,
        description="Gigabytes the cache may take, the oldest make room; default: nine tenths of "
        "what the disk has free.",
    )
    allow_pipe: bool = setting(
        False, free=True, description="Let `pipe:` shard URLs run a shell command."
    )
    retries: int = setting(
        4, free=True, ge=0, description="Further tries at a shard that could not be fetched."
    )
    timeout_seconds: float = setting(
        60.0,
        free=True,
        gt=0,
        description="Silence after which a connection or a command is given up.",
    )
    targets: Literal["labels", "votes"] = setting(
        "labels",
        free=False,
        description="What training aims at: the label, or the classes' shares of FER+'s votes, of "
        "shards created with `--target soft`.",
    )
    bad_shards: Literal["stop", "skip"] = setting(
        "stop",
        free=True,
        description="A training shard that stays bad: stop, or leave it out, counted and logged.",
    )


class AugmentConfig(Strict):
    """What may happen to a training image; 0 switches a transform off."""

    flip: float = setting(
        0.5, free=False, ge=0, le=1, description="Probability of a horizontal flip."
    )
    rotation: float = setting(
        10.0, free=False, ge=0, le=180, description="Largest rotation, degrees either way."
    )
    shift: float = setting(
        0.0, free=False, ge=0, le=0.5, description="Largest shift, fraction of the side."
    )
    scale: float = setting(
        0.0, free=False, ge=0, lt=1, description="Zoom between 1 - scale and 1 + scale."
    )
    brightness: float = setting(
        0.0, free=False, ge=0, le=1, description="Largest shift of the 0-1 grey level."
    )
    contrast: float = setting(
        0.0, free=False, ge=0, lt=1, description="Contrast factor 1 - c to 1 + c."
    )
    erasing: float = setting(
        0.0, free=False, ge=0, le=1, description="Probability of erasing a rectangle."
    )
    erasing_area: tuple[float, float] = setting(
        (0.02, 0.2),
        free=False,
        description="Erased area, smallest and largest fraction of the image.",
    )
    mean: tuple[float, float, float] | None = setting(
        None,
        free=False,
        description="Normalisation mean per channel, 0-1; default: the backbone's own.",
    )
    std: tuple[float, float, float] | None = setting(
        None,
        free=False,
        description="Normalisation deviation per channel, 0-1; default: the backbone's own.",
    )

    @model_validator(mode="after")
    def _in_range(self) -> "AugmentConfig":
        smallest, largest = self.erasing_area
        if not 0 < smallest <= largest <= 1:
            raise ValueError(
                f"erasing_area {smallest}, {largest} is not 0 < smallest <= largest <= 1"
            )
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"std {self.std} is not above 0")
        return self
