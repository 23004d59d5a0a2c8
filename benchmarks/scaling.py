"""How many more images a second two single-thread ranks train than one, by what a step holds.

    python benchmarks/scaling.py shards/fer2013 [--json figures.json]

Each rank has its own core and the same batch (weak scaling), DDP over gloo, the model and the image
size of configs/fer2013.yaml. `bare` steps on a tensor in memory; `loader` on batches from the
stream, resized and normalised; `augmentation` adds what training does to them. The rounds of one
and two ranks alternate, and the median is told.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

BATCH, WARM_UP = 64, 3
KINDS = ("bare", "loader", "augmentation")


def rank_main(options: argparse.Namespace) -> None:
    """Be one rank of one round; rank 0 prints images a second, by kind."""
    import torch
    import torch.distributed as dist
    from torch.nn.functional import cross_entropy
    from torch.nn.parallel import DistributedDataParallel

    from pattlite_dist import world as worlds
    from pattlite_dist.data.fetch import fetch_manifest
    from pattlite_dist.data.module import FERData, origin
    from pattlite_dist.model.build import build_model
    from pattlite_dist.train.optim import build_optimizer
    from pattlite_dist.train.trainer import build_preprocess, reuse_memory

    torch.set_num_threads(1)
    reuse_memory()
    world = worlds.detect()
    config = configuration(options.shards, world.size)
    worlds.connect(world, "cpu", 5)
    manifest = fetch_manifest(origin(config.data))
    network = build_model(config.model, config.data.image_size, len(manifest.labels), False)
    data = FERData(config, world, build_preprocess(config, network), manifest)
    model: Any = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if world.size > 1:
        model = DistributedDataParallel(network, gradient_as_bucket_view=True)
    optimizer = build_optimizer(network, config.optim)

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        optimizer.zero_grad()
        logits = model(images.contiguous(memory_format=torch.channels_last))
        cross_entropy(logits, labels).backward()
        optimizer.step()

    def seconds(kind: str) -> float:
        batches = iter(data.train_dataloader())
        first = next(batches)
        images, labels = data.prepare(first, False), first["label"]
        began = 0.0
        for number in range(options.steps + WARM_UP):
            if number == WARM_UP:
                if world.size > 1:
                    dist.barrier()
                began = time.perf_counter()
            if kind != "bare":
                batch = next(batches)
                images = data.prepare(batch, kind == "augmentation")
                labels = batch["label"]
            step(images, labels)
        if world.size > 1:
            dist.barrier()
        return time.perf_counter() - began

    figures = {kind: options.steps * BATCH * world.size / seconds(kind) for kind in KINDS}
    if world.main:
        print(json.dumps(figures))
    worlds.disconnect()


def configuration(shards: str, ranks: int) -> Any:
    """That of configs/fer2013.yaml, with a batch of `BATCH` a rank."""
    import yaml

    from pattlite_dist.config import Config

    path = Path(__file__).parent.parent / "configs" / "fer2013.yaml"
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    tree["data"]["shards"] = shards
    tree["trainer"]["global_batch"] = BATCH * ranks
    return Config.model_validate(tree)


def measure(shards: str, ranks: int, steps: int) -> dict[str, float]:
    """Images a second of one round, by kind."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, __file__, shards, "--steps", str(steps), "--rank"]
    cores = sorted(os.sched_getaffinity(0))
    processes = []
    for rank in range(ranks):
        launcher = {
            "TORCHELASTIC_RUN_ID": "benchmark", "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        core = cores[rank % len(cores)]
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *words],
            env={**os.environ, **launcher}, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        processes.append(process)
    output = [process.communicate()[0] for process in processes]
    figures: dict[str, float] = json.loads(output[0].splitlines()[-1])
    return figures


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shards")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        rank_main(options)
        return
    from pattlite_dist.console import print_rows

    rounds: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    for _ in range(options.rounds):
        for ranks, found in rounds.items():
            found.append(measure(options.shards, ranks, options.steps))
    rows = [["a step with", "1 rank, images/s", "2 ranks, images/s", "ratio"]]
    figures = {}
    for kind in KINDS:
        one, two = (statistics.median(f[kind] for f in rounds[ranks]) for ranks in (1, 2))
        figures[kind] = {"one": one, "two": two, "ratio": two / one}
        rows.append([kind, f"{one:,.1f}", f"{two:,.1f}", f"{two / one:.2f}"])
    print_rows(rows)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
