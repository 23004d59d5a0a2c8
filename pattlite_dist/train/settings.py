"""Training settings: optimiser, stages, duration and hardware."""

from typing import Literal

from pydantic import field_validator, model_validator

from pattlite_dist.location import Network
from pattlite_dist.settings import Strict, setting

Schedule = Literal["constant", "cosine", "inverse_time"]
_SCHEDULES = "constant; cosine, to 0; inverse_time: 1 / (1 + epochs / decay_epochs)."
_DECAY = "inverse_time: epochs until the rate is half its peak."


class OptimConfig(Strict):
    """Optimiser, learning-rate schedule and averaging."""

    name: Literal["adam", "adamw", "sgd"] = setting("adamw", free=False, description="Optimiser.")
    betas: tuple[float, float] = setting(
        (0.9, 0.999),
        free=False,
        description="adam, adamw: decay of the averages of gradients and of their squares.",
    )
    eps: float = setting(
        1e-8, free=False, gt=0, description="adam, adamw: added to the root of the latter."
    )
    momentum: float = setting(0.9, free=False, ge=0, lt=1, description="sgd: 0: none.")
    nesterov: bool = setting(
        True, free=False, description="sgd: Nesterov's momentum; false: classical momentum."
    )
    lr: float = setting(1e-3, free=False, gt=0, description="Peak learning rate.")
    lr_rule: Literal["none", "sqrt", "linear"] = setting(
        "none",
        free=False,
        description="Learning rates are for global batches of `reference_batch` samples; for "
        "others, multiply them by the ratio (linear) or its square root (sqrt), and average the "
        "weights over as many samples as there.",
    )
    reference_batch: int = setting(64, free=False, ge=1, description="See `lr_rule`.")
    backbone_lr_scale: float = setting(
        1.0, free=False, ge=0, description="Learning rate of the backbone relative to `lr`."
    )
    layer_decay: float = setting(
        1.0,
        free=False,
        gt=0,
        le=1,
        description="Learning rate of each backbone block relative to that of what follows it.",
    )
    weight_decay: float = setting(
        0.05, free=False, ge=0, description="Not applied to norms, biases and positions."
    )
    decay_positions: bool = setting(
        False,
        free=False,
        description="Apply it to position embeddings too; true in runs of earlier versions.",
    )
    schedule: Schedule = setting("cosine", free=False, description=_SCHEDULES)
    decay_epochs: float = setting(80.0, free=False, gt=0, description=_DECAY)
    warmup_epochs: float = setting(1.0, free=False, ge=0, description="Linear warm-up.")
    label_smoothing: float = setting(
        0.0, free=False, ge=0, lt=1, description="Share of a target spread over all classes."
    )
    class_weights: Literal["none", "inverse", "sqrt"] | tuple[float, ...] = setting(
        "none",
        free=False,
        description="Weigh each class's term of the loss by 1 / its samples in an epoch (inverse), "
        "by the root of that (sqrt), or as a list says; scaled to a mean of 1 over an epoch.",
    )
    clip_norm: float = setting(
        0.0, free=False, ge=0, description="Maximum global gradient norm; 0: no clipping."
    )
    ema: float = setting(
        0.0, free=False, ge=0, lt=1, description="Decay of the weight average; 0: no averaging."
    )

    @model_validator(mode="after")
    def _betas_are_decays(self) -> "OptimConfig":
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas {self.betas[0]}, {self.betas[1]} are not both in [0, 1)")
        return self

    @field_validator("class_weights")
    @classmethod
    def _positive(cls, given: str | tuple[float, ...]) -> str | tuple[float, ...]:
        if isinstance(given, tuple) and not all(weight > 0 for weight in given):
            raise ValueError(f"not all of {', '.join(f'{w:g}' for w in given)} are above 0")
        return given


class DistillConfig(Strict):
    """Learning from other networks (Hinton et al., arXiv:1503.02531).

    From what they predict for the very images that the network sees, or from a file of what they
    predicted, which `data.targets` names.
    """

    teachers: tuple[Network, ...] = setting(
        (),
        free=False,
        description="Run folders, also in a bucket, checkpoints or exported files, each with the "
        "classes of the shards; the mean of their probabilities is learned.",
    )
    temperature: float | None = setting(
        None,
        free=False,
        gt=0,
        description="Divide the logits of teachers and network by it before they are compared; "
        "null: 1, or that of the file of targets.",
    )
    share: float = setting(
        1.0,
        free=False,
        gt=0,
        le=1,
        description="Share of the loss that compares with the teachers or the file; the rest "
        "compares with the labels.",
    )


class FinetuneConfig(Strict):
    """Two-stage training: the head on a frozen backbone, then also the backbone's last blocks.

    The backbone's BatchNorm stays as loaded, in evaluation mode, in both.
    """

    start_epoch: int | None = setting(
        None,
        free=False,
        ge=0,
        description="Epochs that train only the head, as set in `optim`, before fine-tuning. "
        "null: no stages, all weights are trained as set in `optim`.",
    )
    unfreeze: int | None = setting(
        None,
        free=False,
        ge=0,
        description="Number of last backbone blocks that fine-tuning trains; null: all.",
    )
    lr: float = setting(1e-5, free=False, gt=0, description="Peak learning rate of fine-tuning.")
    schedule: Schedule = setting("inverse_time", free=False, description=_SCHEDULES)
    decay_epochs: float = setting(80.0, free=False, gt=0, description=_DECAY)
    dropout: float | None = setting(
        None,
        free=False,
        ge=0,
        lt=1,
        description="Rate of every dropout in fine-tuning, in pattlite also of patch channels and "
        "after attention. null: as in the first stage.",
    )


class TrainerConfig(Strict):
    """Duration, batch sizes and hardware."""

    # Free on purpose, to train longer, although it stretches the schedule.
    epochs: int = setting(15, free=True, ge=1, description="Passes over the training set.")
    # Free as well: what they decide by is in the checkpoints.
    patience: int | None = setting(
        None,
        free=True,
        ge=1,
        description="Stop after this many epochs without a better val accuracy; the schedule does "
        "not get shorter. null: train all epochs.",
    )
    min_delta: float = setting(
        0.0,
        free=True,
        ge=0,
        lt=1,
        description="By how much an epoch's val accuracy, 0-1, must exceed the best one to count "
        "as better for `patience`.",
    )
    max_minutes: float | None = setting(
        None,
        free=True,
        gt=0,
        description="Shorten the schedule to the epochs that fit in this many minutes of training, "
        "summed over all starts; decided at the end of each epoch. null: no limit.",
    )
    global_batch: int = setting(
        128, free=False, ge=1, description="Samples per step, over all ranks."
    )
    eval_batch: int = setting(128, free=True, ge=1, description="Samples per rank in evaluation.")
    accelerator: Literal["auto", "cpu", "gpu"] = setting(
        "auto", free=True, description="Where to compute; auto: on GPUs, if torch sees any."
    )
    precision: Literal["auto", "32", "bf16"] = setting(
        "auto", free=True, description="auto: bf16 on GPUs that support it, else 32."
    )
    channels_last: bool = setting(
        True, free=True, description="Store images with the channels last, faster on most devices."
    )
    accumulate: int = setting(
        1,
        free=True,
        ge=1,
        description="Each rank computes its share of a global batch in this many pieces, one after "
        "the other, for want of memory; BatchNorm sees one piece at a time.",
    )
    max_batch_per_rank: int | None = setting(
        None,
        free=True,
        ge=1,
        description="Images that a rank computes at a time, at most: as many pieces as that asks "
        "for, with few ranks more than with many. null: no bound.",
    )
    compile: bool | Literal["default", "reduce-overhead", "max-autotune"] = setting(
        False, free=True, description="Mode of torch.compile; true: default."
    )
    deterministic: bool = setting(
        True,
        free=True,
        description="On GPUs, use kernels that give the same bits every time; some are slower.",
    )
    checkpoint_every_steps: int = setting(
        0, free=True, ge=0, description="Also save a checkpoint every this many steps; 0: never."
    )
    checkpoint_every_minutes: float = setting(
        10,
        free=True,
        ge=0,
        description="Also save a checkpoint every this many minutes, less often if that would "
        "take more than 1 % of the time; 0: never.",
    )
    async_save: bool = setting(
        True,
        free=True,
        description="Write checkpoints beside training, which then only waits for a copy in "
        "memory; false: in the step.",
    )
    keep_best: int = setting(
        1, free=True, ge=1, description="Number of checkpoints to keep, the best by val accuracy."
    )
    log_every_steps: int = setting(
        20, free=True, ge=1, description="Steps between two lines of metrics.jsonl."
    )
    timeout_minutes: float = setting(
        10, free=True, gt=0, description="How long a rank waits for the others."
    )
    takeover_minutes: float = setting(
        5,
        free=True,
        ge=0,
        description="Of a run in a bucket: how long to wait at most for another start that still "
        "trains it, and is asked to end.",
    )
    spot_notice: Literal["auto", "none"] = setting(
        "none",
        free=True,
        description="auto: ask the metadata service of AWS, Google Cloud or Azure, whichever "
        "answers, whether it is about to take this spot machine back, and then stop as for "
        "SIGTERM; none: ask nobody.",
    )
    hang_minutes: float | None = setting(
        None,
        free=True,
        ge=0,
        description="End the run, so that it is started again, if a rank takes longer for what it "
        "has done before; 0: never. null: ten times as long as the slowest step so far, at least 2 "
        "minutes and less than timeout_minutes.",
    )
    probe: bool = setting(
        True,
        free=True,
        description="Under SLURM, and with several machines, look before each start whether every "
        "node can train; one that cannot is named, and SLURM starts the job again without it.",
    )
