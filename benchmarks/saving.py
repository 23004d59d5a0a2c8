"""What a checkpoint costs the steps of a run: written in the step, and beside training.

    python benchmarks/saving.py [CONFIG…] [--rounds 9] [--json figures.json]

For each network, with AdamW and averaged weights: steps on one thread, in blocks of which each
saves once, after its first step, not at all, in the step, or beside it. `waits` is how long the
step waited. `costs` is how much longer a block takes than one without a save, so it includes what
the writer's thread takes from the steps beside it; both in steps, medians of blocks in turns. A
slow disk takes --slow bytes a second, by a file that sleeps.
"""

import argparse
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
import yaml
from torch.nn.functional import cross_entropy

from pattlite_dist.config import Config
from pattlite_dist.console import print_rows
from pattlite_dist.files import atomic_write
from pattlite_dist.model.build import build_model
from pattlite_dist.train import checkpoint
from pattlite_dist.train.checkpoint import AtomicCheckpointIO
from pattlite_dist.train.optim import build_optimizer
from pattlite_dist.train.trainer import reuse_memory
from pattlite_dist.train.writing import Order

CONFIGS = [
    Path(__file__).parent.parent / "configs" / f"{name}.yaml"
    for name in ("fer2013", "fer2013-pattlite")
]
LEAST = 5  # steps of a block
MODES = ("none", "in the step", "beside")


class Slow:
    """A file on a disk that takes so many bytes a second."""

    def __init__(self, stream: BinaryIO, speed: float) -> None:
        self.stream, self.speed = stream, speed

    def write(self, data: bytes) -> int:
        """Write after the time that the disk takes."""
        time.sleep(len(data) / self.speed)
        return self.stream.write(data)

    def flush(self) -> None:
        """Write what is buffered."""
        self.stream.flush()


def slow_disk(speed: float) -> Callable[[Path], Any]:
    """`atomic_write` to such a disk."""

    @contextlib.contextmanager
    def write(path: Path) -> Iterator[BinaryIO]:
        with atomic_write(path) as stream:
            yield cast(BinaryIO, Slow(stream, speed))

    return write


class Training:
    """Steps of a network, and its checkpoint's content."""

    def __init__(self, config: Config, images: int) -> None:
        size = config.data.image_size
        self.model = build_model(config.model, size, classes=7).train()
        self.optimizer = build_optimizer(self.model, config.optim)
        self.average = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.batch = torch.rand(images, 3, size, size)
        self.labels = torch.arange(images) % 7
        self.step()  # the optimiser's averages exist

    def step(self) -> None:
        """Forward and backward pass and update."""
        self.optimizer.zero_grad()
        cross_entropy(self.model(self.batch), self.labels).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def content(self) -> dict[str, Any]:
        """What a run saves."""
        return {
            "state_dict": self.average,
            "current_model_state": self.model.state_dict(),
            "optimizer_states": [self.optimizer.state_dict()],
        }


def block(training: Training, mode: str, path: Path, least: int) -> tuple[float, float, int]:
    """Seconds of a block, seconds that its save took of the step, and its number of steps."""
    io, waited, steps = AtomicCheckpointIO(), 0.0, 0
    begin = time.perf_counter()
    while steps < least or io.beside.busy:
        training.step()
        steps += 1
        if steps == 1 and mode != "none":
            before = time.perf_counter()
            io.save_checkpoint(training.content(), path, Order(mode == "beside"))
            waited = time.perf_counter() - before
    seconds = time.perf_counter() - begin
    if io.failure is not None:
        raise io.failure
    return seconds, waited, steps


def measure(training: Training, path: Path, rounds: int) -> dict[str, dict[str, float]]:
    """By mode: the steps that a save waits and costs."""
    found: dict[str, list[tuple[float, float]]] = {mode: [] for mode in MODES[1:]}
    for turn in range(rounds + 1):
        # A block with a save lies between two without, so that other load cancels out.
        for mode in MODES[1:]:
            first, _, n = block(training, "none", path, LEAST)
            seconds, waited, steps = block(training, mode, path, LEAST)
            second, _, m = block(training, "none", path, LEAST)
            step = (first + second) / (n + m)
            if turn:
                found[mode].append((waited / step, seconds / step - steps))
    return {
        mode: {
            "waits": statistics.median(waits for waits, _ in values),
            "costs": statistics.median(costs for _, costs in values),
        }
        for mode, values in found.items()
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("configs", nargs="*", type=Path, default=CONFIGS)
    parser.add_argument("--images", type=int, default=32, help="a step")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--slow", type=float, default=20e6, help="bytes a second of a slow disk")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    reuse_memory()
    rows = [["network", "MB", "disk", "in the step: waits", "costs", "beside: waits", "costs"]]
    figures = {}
    for config in options.configs:
        text = config.read_text(encoding="utf-8")
        training = Training(Config.model_validate(yaml.safe_load(text)), options.images)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "saved"
            for disk, write in (("this", atomic_write), ("slow", slow_disk(options.slow))):
                checkpoint.atomic_write = write  # type: ignore[attr-defined]
                found = measure(training, path, options.rounds)
                figures[f"{config.stem}, {disk}"] = found
                cells = [f"{found[m][k]:.2f}" for m in MODES[1:] for k in ("waits", "costs")]
                rows.append([config.stem, f"{path.stat().st_size / 1e6:.1f}", disk, *cells])
    print_rows(rows)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
