"""Tracking settings."""

from typing import Literal

from pattlite_dist.settings import Strict, setting

Tracker = Literal["wandb", "tensorboard", "csv"]


class TrackingConfig(Strict):
    """What is written about a run while it trains, next to its record."""

    loggers: tuple[Tracker, ...] = setting(
        ("wandb",),
        free=True,
        description="Who else is told what metrics.jsonl has: wandb (see `wandb`), tensorboard "
        "(files in RUN/tensorboard; requires the extra `tensorboard`), csv (RUN/metrics.csv).",
    )
    report: bool = setting(
        True,
        free=True,
        description="Write report.html at the end of an epoch, at most every five minutes, if "
        "the extra `report` is installed.",
    )
    raw_val: bool = setting(
        False,
        free=True,
        description="With optim.ema, score val with the weights that are not averaged too; a "
        "validation takes twice as long.",
    )


class WandbConfig(Strict):
    """Weights & Biases; its files stay inside the run folder."""

    mode: Literal["auto", "online", "offline", "disabled"] = setting(
        "auto",
        free=True,
        description="auto: online if logged in and the server answers, else offline.",
    )
    project: str = setting("pattlite", free=True, description="Project of the run.")
    entity: str | None = setting(
        None, free=True, description="User or team; default: that of the login."
    )
    group: str | None = setting(None, free=True, description="Name that the runs of a group share.")
    job_type: str = setting("train", free=True, description="What the run is for, to filter by.")
    tags: tuple[str, ...] = setting(
        (), free=True, description="Words to filter by; `pattlite sweep` adds a run's own values."
    )
    upload_model: bool = setting(
        False,
        free=True,
        description="Upload the best checkpoint when training ends; otherwise W&B only gets to "
        "know its path, size and digest.",
    )
    mistakes: int = setting(
        0,
        free=True,
        ge=0,
        le=256,
        description="How many of the surest mistakes on val to show as pictures, whenever val is "
        "better than before. They are of people: ask whether W&B may have them.",
    )
