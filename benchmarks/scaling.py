"""How much faster two single-thread ranks train than one, by what a step includes.

    torchrun --standalone --nproc-per-node=2 benchmarks/scaling.py shards/fer2013 [--json FILE]

Each rank has a core and the same batch (weak scaling), over gloo, with model and image size of
configs/fer2013.yaml. `bare` trains on a tensor in memory; `loader` on batches from the stream,
resized and normalised; `augmentation` adds training's augmentation. In turns of a few steps, one
rank works alone, then both independently (the machine's limit), then both with their gradients
averaged: by DDP, and in one reduction as `pattlite train` does. Changes in the machine's speed
affect all of them. As in timeit, the fastest turn of each is reported: the others are slower
because of the machine.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import yaml
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from pattlite_dist.config import Config
from pattlite_dist.console import print_rows
from pattlite_dist.data.fetch import fetch_manifest
from pattlite_dist.data.module import FERData, origin
from pattlite_dist.errors import UserError
from pattlite_dist.model.build import build_model
from pattlite_dist.runtime import world as worlds
from pattlite_dist.runtime.world import World
from pattlite_dist.train.optim import build_optimizer
from pattlite_dist.train.reduction import Flat
from pattlite_dist.train.trainer import build_preprocess, reuse_memory

BATCH = 64
WAYS = ("one", "apart", "together", "averaged")
KINDS = ("bare", "loader", "augmentation")
CONFIG = Path(__file__).parent.parent / "configs" / "fer2013.yaml"


def configuration(shards: str) -> Config:
    """That of configs/fer2013.yaml, with a batch of `BATCH` per rank."""
    tree = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    tree["data"]["shards"] = shards
    tree["trainer"]["global_batch"] = BATCH * 2
    return Config.model_validate(tree)


def batches(data: FERData, kind: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Prepared images and labels, endlessly."""
    epochs = 0
    first: tuple[torch.Tensor, torch.Tensor] | None = None
    while True:
        loader = data.train_dataloader()
        loader.set_epoch(epochs)
        for batch in loader:
            if first is None or kind != "bare":
                images = data.prepare(batch, kind == "augmentation")
                first = images, batch["label"]
            yield first
        epochs += 1


def stepper(
    config: Config, network: Any, model: Any, average: bool = False
) -> Callable[[Any, Any], None]:
    """A training step of `model`, which is `network` or a wrapper around it."""
    optimizer = build_optimizer(network, config.optim)
    flat = Flat(list(network.parameters()))

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        optimizer.zero_grad()
        logits = model(images.contiguous(memory_format=torch.channels_last))
        cross_entropy(logits, labels).backward()
        if average:
            flat.average()
        optimizer.step()

    return step


def turn(step: Callable[[Any, Any], None], source: Any, steps: int, works: bool) -> float:
    """Seconds for some steps, until the slower rank has finished too."""
    dist.barrier()
    began = time.perf_counter()
    for _ in range(steps if works else 0):
        step(*next(source))
    dist.barrier()
    return time.perf_counter() - began


def measure(world: World, shards: str, steps: int, turns: int) -> dict[str, dict[str, float]]:
    """Images per second, by kind and by who works."""
    config = configuration(shards)
    manifest = fetch_manifest(origin(config.data))

    def network() -> Any:
        model = build_model(config.model, config.data.image_size, len(manifest.labels))
        return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    own, shared, plain = network(), network(), network()
    data = FERData(config, world, build_preprocess(config, own), manifest)
    apart = stepper(config, own, own)
    wrapped = DistributedDataParallel(shared, gradient_as_bucket_view=True)
    together = stepper(config, shared, wrapped)
    averaged = stepper(config, plain, plain, average=True)
    figures = {}
    for kind in KINDS:
        source = batches(data, kind)
        found: dict[str, list[float]] = {name: [] for name in WAYS}
        for number in range(turns + 1):
            seconds = {
                "one": turn(apart, source, steps, world.main),
                "apart": turn(apart, source, steps, True),
                "together": turn(together, source, steps, True),
                "averaged": turn(averaged, source, steps, True),
            }
            for name, value in seconds.items() if number else ():  # the first turn is a warm-up
                found[name].append(BATCH * steps * (1 if name == "one" else 2) / value)
        figures[kind] = {name: max(rates) for name, rates in found.items()}
    return figures


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shards")
    parser.add_argument("--steps", type=int, default=2, help="per turn")
    parser.add_argument("--turns", type=int, default=16)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    world = worlds.detect()
    if world.size != 2:
        raise UserError("start it with torchrun --standalone --nproc-per-node=2")
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[world.rank % len(cores)]})
    torch.set_num_threads(1)
    reuse_memory()
    worlds.connect(world, "cpu", 5)
    figures = measure(world, options.shards, options.steps, options.turns)
    worlds.disconnect()
    if not world.main:
        return
    columns = ("2 independent", "over 1", "2 under DDP", "over 1", "2, one reduction", "over 1")
    rows = [["images/s, a step with", "1 rank", *columns]]
    for kind, found in figures.items():
        cells = [f"{found['one']:,.1f}"]
        for name in WAYS[1:]:
            found[f"{name}/one"] = found[name] / found["one"]
            cells += [f"{found[name]:,.1f}", f"{found[f'{name}/one']:.2f}"]
        rows.append([kind, *cells])
    print_rows(rows)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
