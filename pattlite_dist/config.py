"""The configuration of a run: one tree of pydantic models in which unknown keys are errors.

The command line and the YAML files in `configs/` are both read into `Config`; the resolved tree is
written into the run folder, and every rank reads the same one.
"""

from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pattlite_dist.errors import UserError, first_problem
from pattlite_dist.location import Location, Weights


class Strict(BaseModel):
    """In which unknown keys are errors, and so are NaN and infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataConfig(Strict):
    """Which shards to stream, and how."""

    shards: Location = Field(
        "shards/fer2013",
        description="What holds manifest.json: a folder, or an http(s)://, s3:// or gs:// address.",
    )
    image_size: int = Field(64, ge=48, le=224, description="Side of the model's input, pixels.")
    window: int = Field(
        131072, ge=1, description="Samples shuffled together: whole shards up to this many."
    )
    tail: Literal["drop", "wrap"] = Field(
        "drop",
        description="An epoch's last, short global batch: left out, or filled from its start.",
    )
    workers: int = Field(0, ge=0, description="Loader processes a rank; 0 reads in-process.")
    start_method: Literal["fork", "forkserver", "spawn"] | None = Field(
        None, description="How loader processes start; default: the system's way."
    )
    cache: Location | None = Field(
        None, description="Folder for decoded shards; default: the job's temporary folder."
    )
    cache_gb: float | None = Field(
        None,
        gt=0,
        description="Gigabytes the cache may take, the oldest make room; default: nine tenths of "
        "what the disk has free.",
    )
    allow_pipe: bool = Field(False, description="Let `pipe:` shard URLs run a shell command.")
    retries: int = Field(4, ge=0, description="Further tries at a shard that could not be fetched.")
    timeout_seconds: float = Field(
        60.0, gt=0, description="Silence after which a connection or a command is given up."
    )
    targets: Literal["labels", "votes"] = Field(
        "labels",
        description="What training aims at: the label, or the classes' shares of FER+'s votes, of "
        "shards created with `--target soft`.",
    )
    bad_shards: Literal["stop", "skip"] = Field(
        "stop",
        description="A training shard that stays bad: stop, or leave it out, counted and logged.",
    )


class AugmentConfig(Strict):
    """What may happen to a training image; 0 switches a transform off."""

    flip: float = Field(0.5, ge=0, le=1, description="Probability of a horizontal flip.")
    rotation: float = Field(10.0, ge=0, le=180, description="Largest rotation, degrees either way.")
    shift: float = Field(0.0, ge=0, le=0.5, description="Largest shift, fraction of the side.")
    scale: float = Field(0.0, ge=0, lt=1, description="Zoom between 1 - scale and 1 + scale.")
    brightness: float = Field(0.0, ge=0, le=1, description="Largest shift of the 0-1 grey level.")
    contrast: float = Field(0.0, ge=0, lt=1, description="Contrast factor 1 - c to 1 + c.")
    erasing: float = Field(0.0, ge=0, le=1, description="Probability of erasing a rectangle.")
    erasing_area: tuple[float, float] = Field(
        (0.02, 0.2), description="Erased area, smallest and largest fraction of the image."
    )
    mean: tuple[float, float, float] | None = Field(
        None, description="Normalisation mean per channel, 0-1; default: the backbone's own."
    )
    std: tuple[float, float, float] | None = Field(
        None, description="Normalisation deviation per channel, 0-1; default: the backbone's own."
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


class ModelConfig(Strict):
    """Which network."""

    name: Literal["seed", "pattlite"] = Field(
        "seed",
        description="seed: MobileNetV2, patches, ViT block. pattlite: the paper's, on MobileNetV1.",
    )
    attention: Literal["patches", "none", "batch"] = Field(
        "patches",
        description="pattlite: over a sample's patches; none; or, as published and for study only, "
        "over the batch: predictions then depend on their companions.",
    )
    cut: int = Field(
        14,
        ge=7,
        le=19,
        description="seed: keep MobileNetV2 features[:cut]; 14 ends at stride 16, 19 is all of it.",
    )
    weights: Weights | None = Field(
        None, description="Backbone: a local file, `imagenet` (torchvision's, downloaded), or none."
    )
    width: int = Field(128, ge=8, description="seed: width of the tokens.")
    heads: int = Field(8, ge=1, description="seed: attention heads.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout before the classifier.")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "ModelConfig":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self

    @model_validator(mode="after")
    def _variants_are_pattlites(self) -> "ModelConfig":
        if self.name != "pattlite" and self.attention != "patches":
            raise ValueError(f"attention {self.attention} is for name pattlite, not {self.name}")
        return self


V1_BLOCKS = 10  # of pattlite's MobileNetV1, as `finetune.unfreeze` counts them
Schedule = Literal["constant", "cosine", "inverse_time"]
_SCHEDULES = "constant; cosine, to 0; inverse_time, as 1 / (1 + epochs / decay_epochs)."
_DECAY = "inverse_time: epochs until the rate is half its peak."


class OptimConfig(Strict):
    """How the weights move."""

    name: Literal["adam", "adamw"] = "adamw"
    lr: float = Field(1e-3, gt=0, description="Peak learning rate.")
    backbone_lr_scale: float = Field(1.0, ge=0, description="Backbone's rate relative to `lr`.")
    weight_decay: float = Field(0.05, ge=0, description="Not applied to norms and biases.")
    schedule: Schedule = Field("cosine", description=_SCHEDULES)
    decay_epochs: float = Field(80.0, gt=0, description=_DECAY)
    warmup_epochs: float = Field(1.0, ge=0, description="Linear warm-up.")
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    clip_norm: float = Field(0.0, ge=0, description="Global gradient norm; 0: no clipping.")
    ema: float = Field(
        0.0, ge=0, lt=1, description="Decay of the averaged weights; 0: no averaging."
    )


class FinetuneConfig(Strict):
    """Training in two stages: the head on a frozen backbone, then also the backbone's end.

    The backbone's BatchNorm stays as it was loaded, in evaluation mode, through both.
    """

    start_epoch: int | None = Field(
        None,
        ge=0,
        description="Epochs of the head's stage, trained as `optim` says; then comes fine-tuning. "
        "null: no stages, all weights are trained as `optim` says.",
    )
    unfreeze: int | None = Field(
        None,
        ge=0,
        description="Backbone blocks that fine-tuning trains, counted from the end; null: all.",
    )
    lr: float = Field(1e-5, gt=0, description="Peak learning rate of fine-tuning.")
    schedule: Schedule = Field("inverse_time", description=_SCHEDULES)
    decay_epochs: float = Field(80.0, gt=0, description=_DECAY)
    dropout: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Of every dropout in fine-tuning; in pattlite also of a patch's channels and "
        "after its attention. null: as in the head's stage.",
    )


class TrainerConfig(Strict):
    """How long, how large, and on what."""

    epochs: int = Field(15, ge=1)
    global_batch: int = Field(128, ge=1, description="Samples a step over all ranks together.")
    eval_batch: int = Field(128, ge=1, description="Samples a rank in evaluation.")
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    precision: Literal["auto", "32", "bf16"] = Field(
        "auto", description="auto: bf16 on GPUs that have it, else 32."
    )
    channels_last: bool = True
    compile: bool = False
    checkpoint_every_steps: int = Field(
        0, ge=0, description="Checkpoint also every so many steps; 0: not by steps."
    )
    checkpoint_every_minutes: float = Field(
        10,
        ge=0,
        description="Checkpoint also every so many minutes, less often where that would take more "
        "than 1 % of the time; 0: not by the clock.",
    )
    keep_best: int = Field(1, ge=1, description="Best checkpoints kept, by accuracy on val.")
    log_every_steps: int = Field(20, ge=1)
    timeout_minutes: float = Field(30, gt=0, description="How long a rank waits for the others.")


class WandbConfig(Strict):
    """Weights & Biases; its files stay inside the run folder."""

    mode: Literal["auto", "online", "offline", "disabled"] = Field(
        "auto", description="auto: online when logged in, else offline."
    )
    project: str = "pattlite"
    entity: str | None = None
    group: str | None = None


class Config(Strict):
    """A run."""

    name: str = Field(
        "run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Name of the run's folder."
    )
    runs: Location = Field("runs", description="Folder in which run folders lie.")
    seed: int = Field(0, ge=0, lt=2**32, description="Of order, augmentation and initial weights.")
    data: DataConfig = Field(default_factory=DataConfig)
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    optim: OptimConfig = Field(default_factory=OptimConfig)
    finetune: FinetuneConfig = Field(default_factory=FinetuneConfig)
    trainer: TrainerConfig = Field(default_factory=TrainerConfig)
    wandb: WandbConfig = Field(default_factory=WandbConfig)

    @model_validator(mode="after")
    def _stages_fit_the_epochs(self) -> "Config":
        start, epochs = self.finetune.start_epoch, self.trainer.epochs
        if start is not None and start > epochs:
            raise ValueError(f"finetune.start_epoch {start} is above trainer.epochs {epochs}")
        last = self.finetune.unfreeze
        blocks = self.model.cut if self.model.name == "seed" else V1_BLOCKS
        if last is not None and last > blocks:
            raise ValueError(f"finetune.unfreeze {last} is above the backbone's {blocks} blocks")
        return self


def parse_config(content: Any, where: str) -> Config:
    """Check plain data against the models.

    Raises:
        UserError: a key is unknown or a value out of range; names the key.
    """
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        place, first = first_problem(error)
        key = place or "configuration"
        raise UserError(
            f"{where}: {key}: {first['msg']} (got {first['input']!r}); "
            "see `pattlite train --help` for the keys and their ranges"
        ) from error


def to_yaml(config: Config) -> str:
    """The resolved configuration as YAML, keys in the order of the models."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


# What may change between two starts of one run: none of it touches the order of the samples, the
# network or the optimiser's path, except `epochs`, which stretches the schedule on purpose.
_FREE = {
    "runs", "data.shards", "data.workers", "data.start_method", "data.cache", "data.cache_gb",
    "data.allow_pipe", "data.retries", "data.timeout_seconds", "data.bad_shards", "model.weights",
    "trainer.epochs", "trainer.eval_batch", "trainer.accelerator", "trainer.precision",
    "trainer.channels_last", "trainer.compile", "trainer.checkpoint_every_steps",
    "trainer.checkpoint_every_minutes", "trainer.keep_best", "trainer.log_every_steps",
    "trainer.timeout_minutes", "wandb.mode", "wandb.project", "wandb.entity", "wandb.group",
}  # fmt: skip


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def conflicts(old: Config, new: Config) -> list[str]:
    """Keys, as `key: old -> new`, whose change would make it another run."""
    before, after = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))
    return [
        f"{key}: {before[key]} -> {after[key]}"
        for key in after
        if key not in _FREE and before[key] != after[key]
    ]
