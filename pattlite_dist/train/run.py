"""A training run, from a resolved configuration to a finished run folder."""

import ctypes
import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.strategies import DDPStrategy

from pattlite_dist import world as worlds
from pattlite_dist.config import Config, conflicts, parse_config, to_yaml
from pattlite_dist.data.augment import Preprocess
from pattlite_dist.data.fetch import check_sizes, fetch_manifest
from pattlite_dist.data.module import FERData, origin
from pattlite_dist.data.plan import rank_slice
from pattlite_dist.errors import UserError
from pattlite_dist.files import write_text
from pattlite_dist.model.build import PattLite, SeedNet, build_model
from pattlite_dist.train import checkpoint as checkpoints
from pattlite_dist.train.logs import (
    JsonlLogger,
    progress_callback,
    rewind_metrics,
    wandb_logger,
)
from pattlite_dist.train.module import FERModule
from pattlite_dist.train.optim import Ema, warmup_steps
from pattlite_dist.world import World

T = TypeVar("T")


def run_folder(config: Config) -> Path:
    """Where a run keeps everything."""
    return Path(config.runs) / config.name


def load_config(run: Path) -> Config:
    """The configuration that a run folder was made with.

    Raises:
        UserError: it is not a run folder.
    """
    path = run / "config.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{run} is not a run folder: it has no config.yaml; train first") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {path}: {error}; restore it") from error
    return parse_config(content, str(path))


def find_checkpoint(config: Config, run: Path) -> Path | None:
    """The checkpoint to continue from, if the folder holds one.

    Raises:
        UserError: the folder holds a run with another configuration.
    """
    if (run / "config.yaml").exists():
        changed = conflicts(load_config(run), config)
        if changed:
            raise UserError(
                f"{run} holds a run with another configuration ({'; '.join(changed)}); "
                "set name to start a new one, or restore these values to continue it"
            )
    return checkpoints.newest(run / "checkpoints")


def prepare_folder(config: Config, run: Path, found: Path | None) -> None:
    """Write `config.yaml` and forget metrics of steps that will be taken again."""
    write_text(run / "config.yaml", to_yaml(config))
    place = found and checkpoints.parse_name(found.name)
    rewind_metrics(run / "metrics.jsonl", place.step if place else 0)


def on_main(world: World, work: Callable[[], T]) -> T:
    """Do `work` on rank 0 and give every rank its result, or its error. Collective."""
    value: T | None = None
    message: str | None = None
    if world.main:
        try:
            value = work()
        except UserError as error:
            message = str(error)
    value, message = worlds.from_main(world, (value, message))
    if message is not None:
        raise UserError(message)
    return value


def build_preprocess(config: Config, model: PattLite | SeedNet) -> Preprocess:
    """Resizing and normalisation; mean and deviation are the backbone's unless configured."""
    augment = config.augment
    return Preprocess(
        config.data.image_size,
        augment.mean or model.backbone.mean,
        augment.std or model.backbone.std,
    )


def precision(config: Config, gpu: bool) -> Any:
    """Lightning's name for the arithmetic to use."""
    wanted = config.trainer.precision
    if wanted == "auto":
        wanted = "bf16" if gpu and torch.cuda.is_bf16_supported() else "32"
    return "bf16-mixed" if wanted == "bf16" else "32-true"


def quiet_libraries() -> None:
    """Keep advice that does not fit this package out of the log."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # In-process reading is the default on purpose: it gathers from a memory map.
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", ".*LeafSpec.*")  # Lightning's own use of PyTorch
    os.environ.setdefault("WANDB_SILENT", "true")


def reuse_memory() -> None:
    """Let glibc keep freed memory: by default it returns every large tensor's pages to the system.

    On CPU the next step then faults them in again; two ranks of one thread each were seen to run
    a third faster without that. Nothing happens where the C library has no mallopt.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_max = -1, -4
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)


def build_trainer(config: Config, world: World, run: Path, steps_per_epoch: int) -> pl.Trainer:
    """Lightning's Trainer, told everything and left to guess nothing."""
    settings = config.trainer
    gpu = worlds.use_gpu(settings.accelerator)
    callbacks: list[Callback] = [
        progress_callback(),
        checkpoints.Checkpoints(
            run / "checkpoints", settings.checkpoint_every_steps, settings.keep_best
        ),
    ]
    if config.optim.ema:
        callbacks.append(Ema(config.optim.ema, warmup_steps(config.optim, steps_per_epoch)))
    loggers = [JsonlLogger(run / "metrics.jsonl"), wandb_logger(config, run, world.main)]
    device = worlds.device(world, settings.accelerator)
    return pl.Trainer(
        accelerator="gpu" if gpu else "cpu",
        devices=[device.index] if gpu and world.size == 1 else world.local_size,
        num_nodes=world.nodes,
        strategy=DDPStrategy(gradient_as_bucket_view=True) if world.size > 1 else "auto",
        plugins=[worlds.cluster_environment(world), checkpoints.AtomicCheckpointIO()],
        precision=precision(config, gpu),
        max_epochs=settings.epochs,
        gradient_clip_val=config.optim.clip_norm or None,
        callbacks=callbacks,
        logger=[logger for logger in loggers if logger is not None],
        log_every_n_steps=settings.log_every_steps,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_model_summary=False,
        enable_progress_bar=sys.stdout.isatty(),
        default_root_dir=run,
    )


def train(config: Config) -> Path:
    """Train, or continue, the run that `config` describes; returns its folder.

    Raises:
        UserError: the configuration does not fit the shards, the ranks, or the folder.
    """
    quiet_libraries()
    world = worlds.detect()
    settings = config.trainer
    worlds.connect(world, settings.accelerator, settings.timeout_minutes)
    if not worlds.use_gpu(settings.accelerator):
        reuse_memory()
    try:
        pl.seed_everything(config.seed, verbose=False)
        run = run_folder(config)
        # All that can be wrong is found before anything is written.
        manifest = fetch_manifest(origin(config.data))
        rank_slice(settings.global_batch, world.rank, world.size)
        if not manifest.samples("val"):
            raise UserError(f"{config.data.shards} has no val split to choose on; add one")
        needed = [
            shard
            for split, shards in manifest.shards.items()
            if split != "train" or config.data.bad_shards == "stop"
            for shard in shards
        ]
        on_main(world, lambda: check_sizes(origin(config.data), needed))
        found = on_main(world, lambda: find_checkpoint(config, run))
        model = build_model(
            config.model, config.data.image_size, len(manifest.labels), pretrained=found is None
        )
        data = FERData(config, world, build_preprocess(config, model), manifest)
        steps = data.plan().steps
        on_main(world, lambda: prepare_folder(config, run, found))
        if settings.channels_last:
            model = model.to(memory_format=torch.channels_last)
        if settings.compile:
            model.compile()  # in place: the names in a checkpoint stay as they are
        module = FERModule(config, model, manifest.labels, steps, manifest.samples("val"))
        if world.main:
            start = f"continues from {found.name}" if found else "starts"
            print(f"{run}: {start}; {world.size} rank(s), {steps} steps an epoch", flush=True)
        trainer = build_trainer(config, world, run, steps)
        trainer.fit(module, datamodule=data, ckpt_path=found and str(found), weights_only=True)
        return run
    finally:
        worlds.disconnect()
