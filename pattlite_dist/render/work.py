"""What a manifest is made of, whatever it is for, and what a target cannot do or does not need."""

import hashlib
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from pattlite_dist.config import Config, to_yaml
from pattlite_dist.errors import UserError
from pattlite_dist.location import Place, is_bucket, is_local
from pattlite_dist.runtime.elastic import GRACE
from pattlite_dist.runtime.launch import AGAIN, PROCESSES
from pattlite_dist.slurm.checks import batch, devices
from pattlite_dist.slurm.profile import Profile

LAUNCH = "pattlite_dist.runtime.launch"
CURED = (AGAIN, 143)  # exit statuses that another start cures; 143 is that after SIGTERM
_KEY = "WANDB_API_KEY"
# Keys of a profile that have a meaning off SLURM.
_MEANT = {
    "nodes", "gpus_per_node", "tasks_per_node", "cpus_per_task", "memory_gb", "signal_seconds",
    "max_requeues", "environment",
}  # fmt: skip
# Folders that a run creates; the others of a configuration are read.
_CREATED = {"runs", "scratch", "data.cache"}
_LONGEST = 40  # letters of a name: those of pods and of what Kubeflow makes of it have at most 63


@dataclass(frozen=True)
class Work:
    """A training, as it is started on machines of a cloud.

    Attributes:
        config: resolved; its paths are those in the container.
        profile: how many machines, and what each has.
        image: of the container.
    """

    config: Config
    profile: Profile
    image: str

    @property
    def name(self) -> str:
        """A name that each system takes: small letters, digits, dashes."""
        name = f"pattlite-{self.config.name}"
        plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:_LONGEST].rstrip("-")
        if plain == name:
            return name
        # Two runs whose names differ must not get one name.
        return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"

    @property
    def nodes(self) -> int:
        """The number of machines."""
        return self.profile.node_range[-1]

    @property
    def cores(self) -> int:
        """Of a machine."""
        return self.profile.local_size * self.profile.cpus_per_task

    @property
    def in_bucket(self) -> bool:
        """Whether the run lives in a bucket."""
        return is_bucket(self.config.runs)

    @property
    def text(self) -> str:
        """The configuration, as YAML."""
        return to_yaml(self.config)

    @property
    def wandb_key(self) -> str | None:
        """The variable that holds the key for Weights & Biases, if the run uses it."""
        used = "wandb" in self.config.tracking.loggers
        return _KEY if used and self.config.wandb.mode in ("auto", "online") else None

    def environment(self) -> dict[str, str]:
        """The variables of each machine."""
        return {
            "OMP_NUM_THREADS": str(self.profile.cpus_per_task),
            **self.profile.environment,
            PROCESSES: str(self.profile.local_size),
            GRACE: str(self.profile.signal_seconds),
        }


def check(work: Work, target: str) -> None:
    """Reject a profile of which a target can make nothing.

    Args:
        work: to render.
        target: its name.

    Raises:
        UserError: the reason, and what to do.
    """
    profile, trainer = work.profile, work.config.trainer
    if len(profile.node_range) > 1:
        raise UserError(
            f"profile.nodes is {profile.nodes}, but {target} starts a fixed number of machines, "
            f"and waits for all of them; set profile.nodes={profile.node_range[-1]}, or fewer"
        )
    if profile.secrets:
        names = ", ".join(profile.secrets)
        raise UserError(
            f"profile.environment has {names}, and a manifest is no place for secrets; remove it "
            f"from the profile and {_how(target)}"
        )
    for line in (
        *batch(trainer.global_batch, profile.node_range, profile.local_size),
        *devices(trainer.accelerator, profile.gpus_per_node),
    ):
        raise UserError(line)


def _how(target: str) -> str:
    if target == "SkyPilot":
        return "give it by `sky jobs launch --secret NAME`"
    return "put it into a Secret (`kubectl create secret generic`), named by --secret"


def remarks(work: Work, target: str, mounted: str | None = None) -> list[str]:
    """Sentences on what of the profile has no meaning, and on what must be in the image.

    Args:
        work: to render.
        target: its name.
        mounted: the folder that is on a volume, if one is.
    """
    profile, default = work.profile, Profile()
    unused = [
        key
        for key in Profile.model_fields
        if key not in _MEANT and getattr(profile, key) != getattr(default, key)
    ]
    found = []
    if unused:
        found.append(f"{target} has no use for these keys of the profile: {', '.join(unused)}")
    for key, place in read_places(work.config):
        if mounted is None or not Path(place).is_relative_to(mounted):
            found.append(f"{key}={place} is a path: the image must have it")
    return found


def read_places(model: BaseModel, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The dotted keys of what a run reads from a path, at any depth, and the path."""
    for name, field in type(model).model_fields.items():
        value, key = getattr(model, name), f"{prefix}{name}"
        if isinstance(value, BaseModel):
            yield from read_places(value, f"{key}.")
            continue
        place = next(_marks([*field.metadata, field.annotation]), None)
        if place is None or key in _CREATED:
            continue
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, str) and is_local(one) and not place.is_word(one):
                yield key, one


def _marks(parts: Sequence[Any]) -> Iterator[Place]:
    for part in parts:
        if isinstance(part, Place):
            yield part
        yield from _marks(get_args(part))


def memory_mib(profile: Profile) -> int | None:
    """Of a machine, rounded up; None if the profile does not say it."""
    return None if profile.memory_gb is None else math.ceil(profile.memory_gb * 1024)


def folder_of(work: Work) -> str:
    """The folder of a run that does not live in a bucket."""
    return os.path.normpath(work.config.runs)
