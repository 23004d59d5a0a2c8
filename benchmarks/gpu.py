"""Training speed by batch, precision, compile mode and place of the data, beside a bare loop.

    python benchmarks/gpu.py shards/fer2013 [--batches 64,256,1024] [--precisions 32,bf16]
        [--compile false,default] [--resident false,true] [--steps 50] [--json FILE]

On the GPU if there is one, else on the CPU (then with a small batch and few steps). Ours is
`pattlite train` with configs/fer2013.yaml; the bare loop trains the same network with the same
optimiser on one prepared batch in the device's memory: no data, augmentation, average or record.
"""

import argparse
import contextlib
import itertools
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.nn.functional import cross_entropy

from pattlite_dist.config import Config
from pattlite_dist.console import print_rows
from pattlite_dist.model.build import build_model
from pattlite_dist.runtime import world as worlds
from pattlite_dist.runtime.world import World
from pattlite_dist.train.module import FERModule
from pattlite_dist.train.optim import build_optimizer
from pattlite_dist.train.run import train

CONFIG = Path(__file__).parent.parent / "configs" / "fer2013.yaml"
WARM_UP = 10  # steps; compiling happens in them


class Measured(Exception):
    """Enough steps were taken."""


def now() -> float:
    """The time at which the device has done what it was asked."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def ours(config: Config, steps: int) -> float:
    """Images per second of `pattlite train`, after its first steps."""
    begin, clock = FERModule.on_train_batch_start, [0.0, 0.0]

    def note(self: FERModule, batch: Any, batch_idx: int) -> None:
        if self.global_step == WARM_UP:
            clock[0] = now()
        if self.global_step == WARM_UP + steps:
            clock[1] = now()
            raise Measured
        begin(self, batch, batch_idx)

    FERModule.on_train_batch_start = note  # type: ignore[method-assign]
    try:
        with contextlib.suppress(Measured), contextlib.redirect_stdout(sys.stderr):
            train(config)
    finally:
        FERModule.on_train_batch_start = begin  # type: ignore[method-assign]
    return steps * config.trainer.global_batch / (clock[1] - clock[0])


def bare(config: Config, steps: int) -> float:
    """Images per second of a loop as in PyTorch's tutorials, after its first steps."""
    device = worlds.device(World(), config.trainer.accelerator)
    model = build_model(config.model, config.data.image_size, 7)
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if config.trainer.compile:
        model.compile(mode=str(config.trainer.compile))
    optimizer = build_optimizer(model, config.optim)
    batch, side = config.trainer.global_batch, config.data.image_size
    images = torch.randn(batch, 3, side, side, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 7, (batch,), device=device)
    started = 0.0
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            started = now()
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, config.trainer.precision == "bf16"):
            loss = cross_entropy(model(images), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip_norm)
        optimizer.step()
    return steps * batch / (now() - started)


def configuration(shards: str, runs: str, batch: int, **changes: Any) -> Config:
    """That of configs/fer2013.yaml, trained long enough, nothing logged or saved on the way."""
    tree = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    tree.update(runs=runs, wandb={"mode": "disabled"})
    tree["data"].update(shards=shards, resident=changes.pop("resident"))
    tree["trainer"].update(
        changes, global_batch=batch, epochs=10_000, log_every_steps=100_000,
        checkpoint_every_minutes=0,
    )  # fmt: skip
    return Config.model_validate(tree)


def main() -> None:
    """Measure and print."""
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shards")
    parser.add_argument("--batches", default="64,256,1024" if gpu else "16")
    parser.add_argument("--precisions", default="32,bf16" if gpu else "32")
    parser.add_argument("--compile", default="false,default" if gpu else "false")
    parser.add_argument("--resident", default="false,true")
    parser.add_argument("--steps", type=int, default=50 if gpu else 5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(torch.cuda.get_device_name() if gpu else "CPU")
    rows = [["batch", "precision", "compile", "resident", "images/s", "bare loop", "ratio"]]
    figures = []
    names = ("batches", "precisions", "compile", "resident")
    for words in itertools.product(*(getattr(options, name).split(",") for name in names)):
        batch, precision, mode, resident = words
        with tempfile.TemporaryDirectory() as runs:
            config = configuration(
                options.shards, runs, int(batch), precision=precision,
                compile=False if mode == "false" else mode, resident=resident == "true",
            )  # fmt: skip
            speed, peer = ours(config, options.steps), bare(config, options.steps)
        figures.append({**dict(zip(names, words, strict=True)), "ours": speed, "bare": peer})
        rows.append([*words, f"{speed:,.0f}", f"{peer:,.0f}", f"{speed / peer:.2f}"])
    print_rows(rows)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
