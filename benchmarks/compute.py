"""Images a second of a configuration's network on CPUs, by image size and by blocks frozen.

    python benchmarks/compute.py [CONFIG…] [--sizes 48 64 96] [--freeze 0 4 7] [--json FILE]

Forward and backward pass on a batch in memory: no data, no optimiser, no exchange between ranks.
Each process has one core and its share of the batch, as the ranks of `launch/torchrun.sh` have;
they work at the same time, and their rates are added. The cases take turns, so that changes in the
machine's speed affect all of them, and as in timeit the fastest turn of each is reported.
"""

import argparse
import json
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import yaml

from pattlite_dist.config import Config
from pattlite_dist.console import print_rows

FER2013 = Path(__file__).parent.parent / "configs" / "fer2013.yaml"
Case = tuple[str, int, int]  # configuration, image size, first blocks frozen


def stepper(case: Case, images: int) -> Any:
    """A function that computes the gradients of one batch of random images."""
    import torch
    from torch.nn.functional import cross_entropy

    from pattlite_dist.model.backbones import blocks, freeze
    from pattlite_dist.model.build import build_model

    path, size, frozen = case
    config = Config.model_validate(yaml.safe_load(Path(path).read_text(encoding="utf-8")))
    network = build_model(config.model, size, classes=7).train()
    model = network.to(memory_format=torch.channels_last)
    freeze(network.backbone, frozen)
    for block in blocks(network.backbone)[:frozen]:
        block.eval()
    batch = torch.rand(images, 3, size, size).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(7, (images,))

    def step() -> None:
        cross_entropy(model(batch), labels).backward()  # type: ignore[no-untyped-call]

    return step


def work(core: int, cases: list[Case], images: int, options: Any, together: Any, out: Any) -> None:
    """Send the rate of each turn of each case, in images a second of this process."""
    import torch

    from pattlite_dist.train.trainer import reuse_memory

    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    reuse_memory()
    steps = [stepper(case, images) for case in cases]
    for _ in range(options.turns + 1):  # the first is a warm-up
        for number, step in enumerate(steps):
            together.wait()
            began, done = time.perf_counter(), 0
            while not done or time.perf_counter() - began < options.seconds:
                step()
                done += 1
            out.put((number, images * done / (time.perf_counter() - began)))
            together.wait()


def measure(cases: list[Case], options: Any) -> dict[Case, float]:
    """Images a second of all processes together, by case."""
    cores = sorted(os.sched_getaffinity(0))[: options.processes]
    context = multiprocessing.get_context("spawn")
    together, out = context.Barrier(len(cores)), context.SimpleQueue()
    images = options.batch // len(cores)
    arguments = (cases, images, options, together, out)
    processes = [context.Process(target=work, args=(core, *arguments)) for core in cores]
    for process in processes:
        process.start()
    best = dict.fromkeys(cases, 0.0)
    for turn in range(options.turns + 1):
        for _ in cases:
            found = [out.get() for _ in cores]
            case = cases[found[0][0]]
            if turn:
                best[case] = max(best[case], sum(rate for _, rate in found))
    for process in processes:
        process.join()
    return best


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("configs", nargs="*", default=[str(FER2013)])
    parser.add_argument("--sizes", type=int, nargs="+", default=[48, 64, 96])
    parser.add_argument("--freeze", type=int, nargs="+", default=[0, 4, 7])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64, help="of all processes together")
    parser.add_argument("--seconds", type=float, default=2, help="per turn")
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cases = [(c, s, f) for c in options.configs for f in options.freeze for s in options.sizes]
    best = measure(cases, options)
    rows = [["images/s", "blocks frozen", *(f"{size} px" for size in options.sizes)]]
    for config in options.configs:
        for frozen in options.freeze:
            rates = [f"{best[config, size, frozen]:,.0f}" for size in options.sizes]
            rows.append([Path(config).stem, str(frozen), *rates])
    print_rows(rows)
    if options.json:
        figures = {" ".join(map(str, case)): rate for case, rate in best.items()}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
