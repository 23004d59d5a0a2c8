"""A training run, from a resolved configuration to a finished run folder."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import pytorch_lightning as pl
import torch

from pattlite_dist.compat import lightning
from pattlite_dist.compat import torch as torch_parts
from pattlite_dist.config import Config
from pattlite_dist.data.fetch import check_sizes, fetch_manifest, needed_shards
from pattlite_dist.data.module import FERData, origin
from pattlite_dist.data.plan import rank_slice
from pattlite_dist.data.reader import check_targets
from pattlite_dist.errors import Unreachable, UserError
from pattlite_dist.model.build import MobileNetV2ViT, PattLite, build_model, synchronise
from pattlite_dist.runtime import failure, spot
from pattlite_dist.runtime import world as worlds
from pattlite_dist.runtime.devices import use_gpu
from pattlite_dist.runtime.hang import watched
from pattlite_dist.runtime.pulse import Limits
from pattlite_dist.runtime.signals import Signals, Stopped
from pattlite_dist.runtime.world import World
from pattlite_dist.shards.manifest import Manifest
from pattlite_dist.tracking.folder import as_before, prepare_folder, run_folder, same_run
from pattlite_dist.tracking.history import append, note_failed
from pattlite_dist.tracking.lock import RunLock
from pattlite_dist.train import checkpoint as checkpoints
from pattlite_dist.train.beginning import begin, check_progress, continues_from, is_scored, step_of
from pattlite_dist.train.classes import class_weights, said
from pattlite_dist.train.course import Course
from pattlite_dist.train.description import announce
from pattlite_dist.train.initial import said_before
from pattlite_dist.train.lives import Lives
from pattlite_dist.train.module import FERModule
from pattlite_dist.train.muster import muster
from pattlite_dist.train.saving import Saver
from pattlite_dist.train.teachers import Lesson, lesson_of
from pattlite_dist.train.trainer import (
    build_preprocess,
    build_trainer,
    quiet_libraries,
    reuse_memory,
)

T = TypeVar("T")


def on_main(world: World, work: Callable[[], T]) -> T:
    """Run `work` on rank 0; returns its result, or raises its error, on every rank. Collective."""
    value: T | None = None
    error: UserError | Unreachable | None = None
    if world.main:
        try:
            value = work()
        except (UserError, Unreachable) as caught:
            error = caught
    value, error = worlds.from_main(world, (value, error))
    if error is not None:
        raise error
    return value


def train(config: Config, signals: Signals | None = None, lives: Lives | None = None) -> Path:
    """Start or continue the run described by `config`; returns its folder.

    Args:
        config: of the run.
        signals: already entered, if the caller needs signals recorded from an earlier point.
        lives: where the run lives, if not only in its folder.

    Raises:
        UserError: the configuration does not match the shards, the ranks, or the folder.
        Stopped: a signal was received; all ranks have saved.
    """
    if signals is None:
        with Signals() as signals:
            return train(config, signals, lives)
    quiet_libraries()
    lightning.check()
    torch_parts.check()
    world = worlds.detect()
    run = run_folder(config)
    lock = RunLock(run)
    with (
        spot.watched(config.trainer.spot_notice, world, signals),
        worlds.group(world, config.trainer.accelerator, config.trainer.timeout_minutes),
        lives.kept(run, world, signals, on_main) if lives else contextlib.nullcontext(),
    ):
        return _train(config, world, signals, run, lock, lives)


def _train(
    config: Config,
    world: World,
    signals: Signals,
    run: Path,
    lock: RunLock,
    lives: Lives | None = None,
) -> Path:
    if not use_gpu(config.trainer.accelerator):
        reuse_memory()
    data: FERData | None = None
    try:
        pl.seed_everything(config.seed, verbose=False)
        # Everything is checked before anything is written.
        manifest = check_data(config, world)
        given, config = config, on_main(world, lambda: same_run(config, run))
        for line in as_before(given, config) if world.main else []:
            print(f"{run} {line}")
        model = build_model(config.model, config.data.image_size, len(manifest.labels))
        data = FERData(config, world, build_preprocess(config, model), manifest)
        lesson = lesson_of(config, model, data)
        found = on_main(world, lambda: continues_from(config, run, manifest, lesson))
        began = begin(config, model, manifest) if found is None else None
        if config.model.sync_batchnorm:
            synchronise(model, world.size, use_gpu(config.trainer.accelerator))
        on_main(world, lock.acquire)
        if lock.held:  # otherwise the history belongs to the process that trains
            lock.on_claim(signals.replace)
            failure.on_failure(functools.partial(note_failed, run))
        # Again, as another process may have advanced the run before it exited.
        found = on_main(world, lambda: continues_from(config, run, manifest, lesson))
        on_main(world, lambda: check_progress(run, found))
        on_main(world, lambda: checkpoints.set_aside(run / "checkpoints", found))
        if found is not None and lives is not None:
            found = lives.brought(found, run, world)
        nodes = muster(config, world, run, step_of(found), shared=lives is None)
        fit(config, world, signals, model, data, found, began, lesson, nodes)
        return run
    except Stopped:
        raise
    except Exception as caught:
        error = failure.judge(caught)
        noted = isinstance(error, failure.PeerFailed) and error.noted
        if lock.held and not noted:
            reason = str(error).strip() or type(error).__name__
            mistake = isinstance(error, UserError) or getattr(error, "mistake", False)
            note_failed(run, reason.splitlines()[-1], mistake)
        if error is caught:
            raise
        raise error from caught
    finally:
        if data is not None:
            data.close()
        lock.release()


def check_data(config: Config, world: World) -> Manifest:
    """Check that the shards exist and match the run; returns their manifest. Collective.

    Raises:
        UserError: they do not.
    """
    manifest = fetch_manifest(origin(config.data))
    rank_slice(config.trainer.global_batch, world.rank, world.size)
    check_targets(config.data, manifest)
    class_weights(config, manifest)
    if not manifest.samples("train"):
        raise UserError(f"{config.data.shards} has no train split to train on; add one")
    if not manifest.samples("val"):
        raise UserError(f"{config.data.shards} has no val split to choose a checkpoint on; add one")
    needed = needed_shards(config.data, manifest)
    on_main(world, lambda: check_sizes(origin(config.data), needed))
    return manifest


def fit(
    config: Config,
    world: World,
    signals: Signals,
    model: PattLite | MobileNetV2ViT,
    data: FERData,
    found: Path | None,
    began: str | None = None,
    lesson: Lesson | None = None,
    nodes: Sequence[str] = (),
) -> None:
    """Train from `found`, or from scratch, to the last epoch, and write the run's history.

    Args:
        config: of the run.
        world: which rank this is.
        signals: recorded by the caller.
        model: with the weights that a new run begins with.
        data: the stream.
        found: checkpoint to continue from.
        began: what to say of the weights of a new run.
        lesson: what it learns besides the labels.
        nodes: names of the machines, in the order of their ranks.
    """
    settings, run = config.trainer, run_folder(config)
    steps = data.plan().steps
    step = step_of(found)
    on_main(world, lambda: prepare_folder(config, run, step, is_scored(found)))
    if settings.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if settings.compile:
        mode = "default" if settings.compile is True else settings.compile
        model.compile(mode=mode)  # in place, so the names in a checkpoint do not change
    manifest = data.manifest
    course = Course(run, settings, world, steps)
    module = FERModule(
        config,
        model,
        manifest.labels,
        steps,
        manifest.samples("val"),
        manifest.fingerprint(),
        manifest.image,
        class_weights(config, manifest),
        course.scheduled,
        lesson,
    )
    if world.main:
        lines = [
            began or said_before(config.model.weights),
            data.said_of_fold(),
            lesson.said if lesson else None,
            *said(config, manifest),
        ]
        announce(config, world, found, step, steps, lines, manifest.fingerprint(), nodes)
    saver = Saver(
        run,
        world,
        signals,
        worlds.Agreement(world, settings.timeout_minutes),
        settings.checkpoint_every_steps,
        settings.checkpoint_every_minutes,
        settings.keep_best,
        settings.async_save,
    )
    trainer = build_trainer(config, world, run, saver, steps, course)
    data.waiting = functools.partial(saver.wait_for_data, trainer)
    steady = not settings.compile
    limits = Limits(settings.hang_minutes, settings.timeout_minutes, world.size == 1, steady)
    note = functools.partial(note_failed, run, final=False)
    watch = watched(saver.pulse, limits, run, world, note)
    # What is being written is whole before another process may write.
    with watch, contextlib.closing(saver.keeper):
        trainer.fit(module, datamodule=data, ckpt_path=found and str(found), weights_only=True)
    if world.main:
        why = {} if course.reason is None else {"reason": course.reason}
        for reason in why.values():
            print(f"{run}: finished: {reason}", flush=True)
        slowest, seconds = saver.keeper.slowest, saver.keeper.seconds
        append(run, "finished", step=trainer.global_step, save_seconds=round(slowest, 3),
               saving_seconds=round(seconds, 3), **why)  # fmt: skip
