"""What a step costs beyond a bare PyTorch loop: our Trainer set-up, and a plain LightningModule.

    python benchmarks/step.py [--json figures.json]

The model is so small that only overhead is measured; batches are in memory. Ours is the set-up of
`pattlite train` (its module, callbacks, loggers and checkpoints); the plain one has Lightning's
default logger and progress bar. The rounds are interleaved, and their median is reported.
"""

import argparse
import contextlib
import cProfile
import json
import os
import pstats
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from pattlite_dist.config import Config
from pattlite_dist.console import print_rows
from pattlite_dist.runtime.signals import Signals
from pattlite_dist.runtime.world import Agreement, World
from pattlite_dist.train.module import FERModule
from pattlite_dist.train.optim import build_optimizer
from pattlite_dist.train.saving import Saver
from pattlite_dist.train.trainer import build_trainer, quiet_libraries, reuse_memory

BATCH, CLASSES, WARM_UP = 8, 7, 100
CONFIG = Config.model_validate(
    {"trainer": {"epochs": 1, "accelerator": "cpu"}, "wandb": {"mode": "disabled"}}
)


def tiny() -> nn.Module:
    """One matrix, from images of 8 x 8 to logits."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, CLASSES))


def batches(steps: int) -> list[dict[str, Any]]:
    """Batches as the data module delivers them."""
    generator = torch.Generator().manual_seed(0)
    shared = {
        "image": torch.randn(BATCH, 3, 8, 8, generator=generator),
        "label": torch.arange(BATCH) % CLASSES,
        "id": torch.arange(BATCH),
        "counts": torch.ones(BATCH, dtype=torch.bool),
        "weight": torch.ones(BATCH),
        "counted": BATCH,
        "left_out": 0,
    }
    return [{**shared, "epoch": 0, "step": step} for step in range(steps)]


def same(batch: Any) -> Any:
    """Nothing to collate."""
    return batch


class Memory(pl.LightningDataModule):
    """Batches from a list; one batch to validate on."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps, self.config = steps, CONFIG

    def train_dataloader(self) -> DataLoader[Any]:
        """Every batch of the list."""
        return DataLoader(batches(self.steps), batch_size=None, collate_fn=same)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[Any]:
        """One batch."""
        return DataLoader(batches(1), batch_size=None, collate_fn=same)  # type: ignore[arg-type]


class Clock(pl.Callback):
    """Times the steps after the warm-up, without validation and checkpoints."""

    seconds = begin = 0.0

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        """Start at the end of the warm-up."""
        if trainer.global_step == WARM_UP:
            self.begin = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """Stop at the last step."""
        if trainer.global_step == trainer.fit_loop.max_batches:
            self.seconds = time.perf_counter() - self.begin


class Plain(pl.LightningModule):
    """A module as in a tutorial."""

    def __init__(self) -> None:
        super().__init__()
        self.model = tiny()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        """Loss, logged and shown."""
        loss = F.cross_entropy(self.model(batch["image"]), batch["label"])
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The same optimiser as ours."""
        return build_optimizer(self.model, CONFIG.optim)


def bare(steps: int, folder: Path) -> float:
    """A loop as in PyTorch's tutorials; returns seconds per step."""
    model, data = tiny(), batches(steps)
    optimizer = build_optimizer(model, CONFIG.optim)
    begin = 0.0
    for step, batch in enumerate(data):
        if step == WARM_UP:
            begin = time.perf_counter()
        optimizer.zero_grad()
        F.cross_entropy(model(batch["image"]), batch["label"]).backward()
        optimizer.step()
    return (time.perf_counter() - begin) / (steps - WARM_UP)


def fit(trainer: pl.Trainer, module: pl.LightningModule, steps: int) -> float:
    """Seconds per step of a Trainer."""
    clock = Clock()
    trainer.callbacks.append(clock)
    with (
        Path(os.devnull).open("w") as sink,
        contextlib.redirect_stderr(sink),
        contextlib.redirect_stdout(sink),
    ):
        trainer.fit(module, datamodule=Memory(steps))
    return clock.seconds / (steps - WARM_UP)


def ours(steps: int, folder: Path) -> float:
    """The Trainer that `pattlite train` builds."""
    folder.mkdir()
    module = FERModule(CONFIG, tiny(), [str(i) for i in range(CLASSES)], steps, BATCH)
    world = World()
    saver = Saver(folder, world, Signals(), Agreement(world, 1), 0, 10, 1)
    return fit(build_trainer(CONFIG, world, folder, saver, steps), module, steps)


def plain(steps: int, folder: Path) -> float:
    """A Trainer with Lightning's defaults."""
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", default_root_dir=folder)
    return fit(trainer, Plain(), steps)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="show where ours spends its time")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    quiet_libraries()
    warnings.filterwarnings("ignore")
    reuse_memory()
    contenders: dict[str, Callable[[int, Path], float]] = {
        "a bare PyTorch loop": bare,
        "ours: pattlite train's Trainer": ours,
        "a plain LightningModule, default logger and progress bar": plain,
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    with tempfile.TemporaryDirectory() as folder:
        if options.profile:
            with cProfile.Profile() as profile:
                ours(options.steps, Path(folder) / "profile")
            pstats.Stats(profile).sort_stats("tottime").print_stats(25)
            return
        for number in range(options.rounds):
            for name, run in contenders.items():
                times[name].append(run(options.steps, Path(folder) / f"{name[:4]}{number}"))
    figures = {name: 1e6 * statistics.median(seconds) for name, seconds in times.items()}
    base = figures["a bare PyTorch loop"]
    rows = [["with a tiny model", "µs per step", "beyond the bare loop, ms"]]
    rows += [[n, f"{value:,.0f}", f"{(value - base) / 1e3:.2f}"] for n, value in figures.items()]
    print_rows(rows)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
