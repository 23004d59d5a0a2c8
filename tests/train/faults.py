"""Faults: a rank kills itself, is sent another signal, or hangs, at an exact point.

`tests.zygote` installs them in the ranks that it forks.
"""

import hashlib
import io
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import Callback

from pattlite_dist.train import run as runs
from pattlite_dist.train.names import parse_name

WRITE, RENAME, RENAMED, REMOVE, REWIND = "write", "rename", "renamed", "remove", "rewind"
START, SLOW, LOADER, SKIP = "start", "slow", "loader", "skip"
EVERY = -1


@dataclass(frozen=True)
class Fault:
    """Where a rank kills itself, or is sent another signal.

    Attributes:
        place: a Lightning hook, or a stage in saving a checkpoint: it is being written, about to
            be renamed, just renamed, or an older one is about to be removed after it; or the
            metrics are about to be rewound as a run starts. `START`: all ranks are about to begin.
            `SLOW`: none, each step is longer.
            `LOADER`: at a step's end, in its loader processes. `SKIP`: at a step's end it waits for
            what rank 0 never sends, and so skips what the others do together.
        step: optimiser steps taken by then; ignored by `REWIND`, `START` and `SLOW`.
        late: in a hook, after the package's own callbacks instead of before them.
        detail: the batch of a validation, the percentage of a checkpoint that is written, or
            the milliseconds that it sleeps.
        rank: which rank; `EVERY` for all of them.
        signum: the signal; any but SIGKILL is sent once, and the rank keeps running. 0: none, the
            thread that comes there stays there, as in a system call that does not return.
    """

    place: str
    step: int
    late: bool = False
    detail: int = 0
    rank: int = 0
    signum: int = int(signal.SIGKILL)

    def strike(self) -> None:
        os.write(2, f"struck by {self}\n".encode())
        if self.place == LOADER:
            for process in multiprocessing.active_children():
                os.kill(process.pid or 0, self.signum)
        elif self.place == SKIP:
            dist.recv(torch.zeros(1), src=0)
        elif self.signum:
            os.kill(os.getpid(), self.signum)
        else:
            threading.Event().wait()


def killer(fault: Fault) -> Callback:
    """A callback that strikes in a hook, once."""
    struck = False

    def hook(self: Callback, trainer: pl.Trainer, module: pl.LightningModule, *args: Any) -> None:
        nonlocal struck
        anywhere = not fault.place.startswith("on_validation_batch")
        here = trainer.global_step == fault.step and (anywhere or args[-1] == fault.detail)
        if here and not struck:
            struck = True
            fault.strike()

    place = fault.place if fault.place.startswith("on_") else "on_train_batch_end"
    return type("Killer", (Callback,), {place: hook})()


class Sleeper(Callback):
    """Makes each step longer.

    Args:
        seconds: by so much.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_train_batch_start(self, *args: Any) -> None:
        time.sleep(self.seconds)


def watch_files(fault: Fault) -> None:
    """Kill at renames and removals, seen through the interpreter's audit events."""
    renamed = dying = False

    def is_checkpoint(path: Any, step: int | None) -> bool:
        found = parse_name(Path(os.fsdecode(path)).name)
        return found is not None and step in (None, found.step)

    def met(event: str, args: tuple[Any, ...]) -> bool:
        if fault.place == RENAMED:
            return renamed
        if fault.place == REMOVE:
            return renamed and event == "os.remove" and is_checkpoint(args[0], None)
        if fault.place == REWIND:
            return event == "os.rename" and os.fsdecode(args[1]).endswith("metrics.jsonl")
        return event == "os.rename" and is_checkpoint(args[1], fault.step)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal renamed, dying
        if dying:  # which raises audit events itself
            return
        if met(event, args):
            dying = True
            fault.strike()
        renamed = renamed or (event == "os.rename" and is_checkpoint(args[1], fault.step))

    sys.addaudithook(hook)


def tear_checkpoint(fault: Fault) -> None:
    """Kill when part of a checkpoint has been written to its file."""
    save = torch.save

    def torn(content: Any, target: Any) -> None:
        if content.get("global_step") != fault.step:
            save(content, target)
            return
        whole = io.BytesIO()
        save(content, whole)
        part = whole.getvalue()[: len(whole.getvalue()) * fault.detail // 100]
        target.write(part)
        target.flush()
        fault.strike()

    torch.save = torn


class Recorder(Callback):
    """Records the exact input of a rank, and its losses.

    Args:
        path: gets one line of JSON per step.
        freeze: keep BatchNorm at its initial statistics.
    """

    def __init__(self, path: str, freeze: bool) -> None:
        self.path, self.freeze = Path(path), freeze

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        images = batch["image"].contiguous().numpy()
        self.line = {
            "place": [int(batch["epoch"]), int(batch["step"])],
            "ids": batch["id"].tolist(),
            "pixels": [hashlib.sha256(image.tobytes()).hexdigest() for image in images],
        }
        for part in pl_module.modules() if self.freeze else ():
            if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
                part.eval()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *args: Any
    ) -> None:
        line = {**self.line, "loss": float(outputs["loss"])}
        with self.path.open("a") as stream:
            stream.write(json.dumps(line) + "\n")


def install(fault: Fault | None, record: str | None, freeze: bool) -> None:
    """Install the fault and the recorder in this process."""
    build = runs.build_trainer

    def build_trainer(*args: Any) -> pl.Trainer:
        if fault is not None and fault.place == START:
            fault.strike()
        trainer = build(*args)
        if record is not None:  # the recorder also freezes
            trainer.callbacks.insert(0, Recorder(record, freeze))
        if fault is not None and fault.place == SLOW:
            trainer.callbacks.insert(0, Sleeper(fault.detail / 1000))
        if fault is not None and fault.place.startswith(("on_", LOADER, SKIP)):
            trainer.callbacks.insert(len(trainer.callbacks) if fault.late else 0, killer(fault))
        return trainer

    runs.build_trainer = build_trainer
    if fault is not None and fault.place == WRITE:
        tear_checkpoint(fault)
    elif fault is not None and fault.place in (RENAME, RENAMED, REMOVE, REWIND):
        watch_files(fault)
