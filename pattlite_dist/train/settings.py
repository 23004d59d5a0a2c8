"""Settings of training: how the weights move, in which stages, how long and on what."""

from typing import Literal

from pattlite_dist.settings import Strict, setting

Schedule = Literal["constant", "cosine", "inverse_time"]
_SCHEDULES = "constant; cosine, to 0; inverse_time, as 1 / (1 + epochs / decay_epochs)."
_DECAY = "inverse_time: epochs until the rate is half its peak."


class OptimConfig(Strict):
    """How the weights move."""

    name: Literal["adam", "adamw"] = setting("adamw", free=False)
    lr: float = setting(1e-3, free=False, gt=0, description="Peak learning rate.")
    backbone_lr_scale: float = setting(
        1.0, free=False, ge=0, description="Backbone's rate relative to `lr`."
    )
    weight_decay: float = setting(
        0.05, free=False, ge=0, description="Not applied to norms and biases."
    )
    schedule: Schedule = setting("cosine", free=False, description=_SCHEDULES)
    decay_epochs: float = setting(80.0, free=False, gt=0, description=_DECAY)
    warmup_epochs: float = setting(1.0, free=False, ge=0, description="Linear warm-up.")
    label_smoothing: float = setting(0.0, free=False, ge=0, lt=1)
    clip_norm: float = setting(
        0.0, free=False, ge=0, description="Global gradient norm; 0: no clipping."
    )
    ema: float = setting(
        0.0, free=False, ge=0, lt=1, description="Decay of the averaged weights; 0: no averaging."
    )


class FinetuneConfig(Strict):
    """Training in two stages: the head on a frozen backbone, then also the backbone's end.

    The backbone's BatchNorm stays as it was loaded, in evaluation mode, through both.
    """

    start_epoch: int | None = setting(
        None,
        free=False,
        ge=0,
        description="Epochs of the head's stage, trained as `optim` says; then comes fine-tuning. "
        "null: no stages, all weights are trained as `optim` says.",
    )
    unfreeze: int | None = setting(
        None,
        free=False,
        ge=0,
        description="Backbone blocks that fine-tuning trains, counted from the end; null: all.",
    )
    lr: float = setting(1e-5, free=False, gt=0, description="Peak learning rate of fine-tuning.")
    schedule: Schedule = setting("inverse_time", free=False, description=_SCHEDULES)
    decay_epochs: float = setting(80.0, free=False, gt=0, description=_DECAY)
    dropout: float | None = setting(
        None,
        free=False,
        ge=0,
        lt=1,
        description="Of every dropout in fine-tuning; in pattlite also of a patch's channels and "
        "after its attention. null: as in the head's stage.",
    )


class TrainerConfig(Strict):
    """How long, how large, and on what."""

    # Free, though it stretches the schedule: on purpose, to train on.
    epochs: int = setting(15, free=True, ge=1)
    global_batch: int = setting(
        128, free=False, ge=1, description="Samples a step over all ranks together."
    )
    eval_batch: int = setting(128, free=True, ge=1, description="Samples a rank in evaluation.")
    accelerator: Literal["auto", "cpu", "gpu"] = setting("auto", free=True)
    precision: Literal["auto", "32", "bf16"] = setting(
        "auto", free=True, description="auto: bf16 on GPUs that have it, else 32."
    )
    channels_last: bool = setting(True, free=True)
    compile: bool = setting(False, free=True)
    checkpoint_every_steps: int = setting(
        0, free=True, ge=0, description="Checkpoint also every so many steps; 0: not by steps."
    )
    checkpoint_every_minutes: float = setting(
        10,
        free=True,
        ge=0,
        description="Checkpoint also every so many minutes, less often where that would take more "
        "than 1 % of the time; 0: not by the clock.",
    )
    keep_best: int = setting(
        1, free=True, ge=1, description="Best checkpoints kept, by accuracy on val."
    )
    log_every_steps: int = setting(20, free=True, ge=1)
    timeout_minutes: float = setting(
        30, free=True, gt=0, description="How long a rank waits for the others."
    )
