"""Tracking settings."""

from typing import Literal

from pattlite_dist.settings import Strict, setting


class TrackingConfig(Strict):
    """What is written about a run while it trains, next to its record."""

    report: bool = setting(
        True,
        free=True,
        description="Write report.html at the end of an epoch, at most every five minutes, if "
        "the extra `report` is installed.",
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
