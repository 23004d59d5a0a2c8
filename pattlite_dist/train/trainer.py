"""Lightning's Trainer as configured for this package, and set-up shared by training processes."""

import ctypes
import logging
import os
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.strategies import SingleDeviceStrategy

from pattlite_dist.compat.lightning import leave_signals_alone
from pattlite_dist.config import Config
from pattlite_dist.data.augment import Preprocess
from pattlite_dist.model.build import MobileNetV2ViT, PattLite, normalisation
from pattlite_dist.runtime import world as worlds
from pattlite_dist.runtime.world import World
from pattlite_dist.tracking.loggers import CsvCopy, require_loggers, tensorboard_logger
from pattlite_dist.tracking.logs import JsonlLogger
from pattlite_dist.tracking.progress import progress_callback
from pattlite_dist.tracking.record import RECORD_NAME
from pattlite_dist.tracking.reporting import report_callbacks
from pattlite_dist.tracking.wandb_run import wandb_logger
from pattlite_dist.train.course import Course
from pattlite_dist.train.optim import Ema
from pattlite_dist.train.phases import Phases
from pattlite_dist.train.rates import ema_decay, warmup_steps
from pattlite_dist.train.reduction import MeanGradients, PlainRanks
from pattlite_dist.train.saving import Saver
from pattlite_dist.train.stages import Frozen, Stages
from pattlite_dist.train.wandb_media import WandbMedia


def build_preprocess(config: Config, model: PattLite | MobileNetV2ViT) -> Preprocess:
    """Resizing and normalisation, with the backbone's mean and deviation unless configured."""
    return Preprocess(
        config.data.image_size,
        *normalisation(config.augment, model),
        [side for _, side in config.data.image_sizes],
    )


def precision(config: Config, gpu: bool) -> Any:
    """Lightning's name for the precision to use."""
    wanted = config.trainer.precision
    if wanted == "auto":
        wanted = "bf16" if gpu and not emulates_bf16() else "32"
    return "bf16-mixed" if wanted == "bf16" else "32-true"


def emulates_bf16() -> bool:
    """Whether this process's GPU has no arithmetic in bf16, and so is slower in it than in 32."""
    return not torch.cuda.is_bf16_supported(including_emulation=False)


def quiet_libraries() -> None:
    """Suppress library advice that does not apply to this package."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # In-process reading is the default on purpose: it reads from a memory map.
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", ".*`srun` command is available on your system but is not.*")
    warnings.filterwarnings("ignore", ".*GPU available but not used.*")  # on purpose
    warnings.filterwarnings("ignore", ".*LeafSpec.*")  # Lightning's own use of PyTorch
    os.environ.setdefault("WANDB_SILENT", "true")


def reuse_memory() -> None:
    """Make glibc keep freed memory; by default it returns a large tensor's pages to the system.

    On CPU the next step then faults them in again; two single-threaded ranks ran a third faster
    without that. Does nothing if the C library has no mallopt.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_max = -1, -4
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)


def build_trainer(
    config: Config,
    world: World,
    run: Path,
    saver: Saver,
    steps: int,
    course: Course | None = None,
) -> pl.Trainer:
    """Lightning's Trainer, with everything set explicitly.

    Args:
        config: of the run.
        world: which rank this is.
        run: folder.
        saver: decides when to save and when to stop.
        steps: per epoch.
        course: decides how far the run goes; None: to its last epoch.
    """
    settings = config.trainer
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    callbacks: list[Callback] = [Phases(saver.pulse), progress_callback(), saver]
    if course is not None:
        callbacks.append(course)
    if world.size > 1:
        callbacks.append(MeanGradients())
    if config.finetune.start_epoch is not None:
        stages = Stages(config.finetune.start_epoch, config.finetune, config.model.freeze)
        callbacks.append(stages)
    elif config.model.freeze:
        callbacks.append(Frozen(config.model.freeze))
    if config.optim.ema:
        decay = ema_decay(config.optim, settings.global_batch)
        warmup = warmup_steps(config.optim, steps)
        callbacks.append(Ema(decay, warmup, config.tracking.raw_val))
    if world.main:
        callbacks += report_callbacks(run, config.tracking.report)
    require_loggers(config.tracking.loggers)  # on every rank, so that all of them end
    wandb = wandb_logger(config, run, world.main)
    others = [wandb, tensorboard_logger(config.tracking, run, world.main)]
    loggers = [JsonlLogger(run / RECORD_NAME), *others]
    if world.main and "csv" in config.tracking.loggers:
        callbacks.append(CsvCopy(run))
    if wandb is not None:
        callbacks.append(WandbMedia(wandb, run, config.wandb))
    device = worlds.device(world, settings.accelerator)
    gpu = device.type == "cuda"
    # Lightning looks a rank's device up by its local rank, though the rank may see no other.
    strategy = (
        PlainRanks(parallel_devices=[device] * world.local_size)
        if world.size > 1
        else SingleDeviceStrategy(device)
    )
    trainer = pl.Trainer(
        accelerator="gpu" if gpu else "cpu",
        num_nodes=world.nodes,
        strategy=strategy,
        plugins=[worlds.cluster_environment(world), saver.keeper.io],
        precision=precision(config, gpu),
        max_epochs=settings.epochs,
        # An operation that has no such kernel is named in a warning.
        deterministic="warn" if gpu and settings.deterministic else False,
        gradient_clip_val=config.optim.clip_norm or None,
        callbacks=callbacks,
        logger=[logger for logger in loggers if logger is not None],
        log_every_n_steps=settings.log_every_steps,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_model_summary=False,
        enable_progress_bar=False,  # the callback draws it
        default_root_dir=run,
    )
    leave_signals_alone(trainer)
    return trainer
