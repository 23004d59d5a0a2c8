"""The configuration of a run, composed of the parts' own settings; unknown keys are errors.

The command line and the YAML files in `configs/` are both read into `Config`; the resolved tree is
written into the run folder, and every rank reads the same one.
"""

import functools
from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from pattlite_dist.data.settings import AugmentConfig, DataConfig
from pattlite_dist.errors import UserError, first_problem
from pattlite_dist.location import Folder, Runs, refused_in, with_absolute_paths, with_names_only
from pattlite_dist.logins import without_secrets
from pattlite_dist.migrate import VERSION, migrate
from pattlite_dist.model.settings import ModelConfig
from pattlite_dist.settings import Strict, is_a, is_free, setting
from pattlite_dist.tracking.settings import TrackingConfig, WandbConfig
from pattlite_dist.train.settings import DistillConfig, FinetuneConfig, OptimConfig, TrainerConfig


class Config(Strict):
    """A run."""

    name: str = setting(
        "run",
        free=False,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Name of the run's folder: letters, digits, and within it also `.`, `_`, `-`.",
    )
    runs: Runs = setting(
        "runs",
        free=True,
        description="Folder that contains the run folders; `train` also takes one in a bucket, "
        "such as s3://bucket/runs.",
    )
    scratch: Folder | None = setting(
        None,
        free=True,
        description="Where runs in a bucket are kept on this machine; default: "
        "~/.cache/pattlite/runs.",
    )
    seed: int = setting(
        0, free=False, ge=0, lt=2**32, description="For order, augmentation and initial weights."
    )
    data: DataConfig = Field(default_factory=DataConfig)
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    optim: OptimConfig = Field(default_factory=OptimConfig)
    distill: DistillConfig = Field(default_factory=DistillConfig)
    finetune: FinetuneConfig = Field(default_factory=FinetuneConfig)
    trainer: TrainerConfig = Field(default_factory=TrainerConfig)
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)
    wandb: WandbConfig = Field(default_factory=WandbConfig)

    @model_validator(mode="after")
    def _one_teaches(self) -> "Config":
        if self.distill.teachers and self.data.targets_file:
            raise ValueError(
                "distill.teachers and a file in data.targets are two sources of what to learn; "
                "set distill.teachers=[] or data.targets=labels"
            )
        return self

    @model_validator(mode="after")
    def _classes_of_all_samples(self) -> "Config":
        if self.data.folds > 1 and self.optim.class_weights != "none":
            raise ValueError(
                "optim.class_weights counts the classes of all training samples, but data.folds "
                "leaves some out; set data.folds=1, or optim.class_weights=none"
            )
        return self

    @model_validator(mode="after")
    def _stages_fit_the_epochs(self) -> "Config":
        start, epochs = self.finetune.start_epoch, self.trainer.epochs
        if start is not None and start > epochs:
            raise ValueError(f"finetune.start_epoch {start} is above trainer.epochs {epochs}")
        if start is not None and self.trainer.max_minutes is not None:
            raise ValueError(
                "trainer.max_minutes shortens one schedule, but finetune.start_epoch makes two; "
                "set one of them to null"
            )
        if self.data.image_sizes and self.trainer.max_minutes is not None:
            raise ValueError(
                "trainer.max_minutes may end a run before the epochs that data.image_sizes names; "
                "leave one of them out"
            )
        last, blocks = self.finetune.unfreeze, self.model.blocks
        if last is not None and last > blocks:
            raise ValueError(f"finetune.unfreeze {last} is above the backbone's {blocks} blocks")
        return self

    @model_validator(mode="after")
    def _partners_for_mixing(self) -> "Config":
        if self.trainer.global_batch == 1 and (self.augment.mixup or self.augment.cutmix):
            raise ValueError(
                "augment.mixup and augment.cutmix require a trainer.global_batch of at least 2"
            )
        return self


def parse_config(content: Any, where: str) -> Config:
    """Check plain data of the newest version against the models.

    Raises:
        UserError: a key is unknown, or a value out of range or an address that is not understood;
            the message names the key.
    """
    try:
        config = Config.model_validate(content)
    except ValidationError as error:
        place, first = first_problem(error)
        key = place or "configuration"
        given = without_secrets(repr(first["input"]))  # of a whole part, if two keys disagree
        raise UserError(
            f"{where}: {key}: {first['msg']} (got {given}); "
            "see `pattlite train --help` for the keys and their ranges"
        ) from error
    wrong = refused_in(config)
    if wrong is not None:
        raise UserError(f"{where}: {': '.join(wrong)}")
    return config


def parse_written(content: Any, where: str) -> Config:
    """Check what `to_tree` of this version or an earlier one returned.

    Raises:
        UserError: its version is newer than this package, or it is not a valid configuration.
    """
    return parse_config(migrate(content, where) if isinstance(content, dict) else content, where)


def to_tree(config: Config) -> dict[str, Any]:
    """The resolved configuration as plain data, with its version, keys in the models' order."""
    return {"version": VERSION, **config.model_dump(mode="json")}


def to_yaml(config: Config) -> str:
    """The same as YAML."""
    return yaml.safe_dump(to_tree(config), sort_keys=False)


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, bool]]:
    """Each key, dotted, and whether it may change between two starts of one run."""
    for name, field in model.model_fields.items():
        part = field.annotation
        if is_a(part, BaseModel):
            yield from _keys(part, f"{prefix}{name}.")
        else:
            yield prefix + name, is_free(field)


@functools.cache
def free_keys() -> frozenset[str]:
    """What may change between two starts of one run."""
    return frozenset(key for key, free in _keys(Config) if free)


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested tables, by their dotted keys."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found.update(flat(value, f"{prefix}{key}."))
        else:
            found[prefix + key] = value
    return found


def given_away(config: Config) -> Config:
    """The same configuration without what is only this machine's or its user's."""
    return with_names_only(config).model_copy(update={"wandb": WandbConfig()})


def conflicts(old: Config, new: Config) -> list[str]:
    """Keys, as `key: old -> new`, that differ and would make it another run."""
    # A run's folder has absolute paths, so that it can be used from any other.
    before, after = (flat(with_absolute_paths(one).model_dump(mode="json")) for one in (old, new))
    return [
        f"{key}: {before[key]} -> {after[key]}"
        for key in after
        if key not in free_keys() and before[key] != after[key]
    ]
