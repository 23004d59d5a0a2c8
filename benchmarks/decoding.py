"""What the ranks of a node wait for shards that nobody has decoded, if decoded ahead or not.

    python benchmarks/decoding.py shards/fer2013 [--ranks 8] [--rounds 3] [--json figures.json]

Ranks are processes that take one epoch together, step by step, as gradients make them do. A step
and the fetching of a shard sleep (`--step`, `--fetch` seconds), as on a GPU and from a store, so
that few cores can stand for many; decoding is real. `first` is the time to the first batch,
`waits` what the slowest rank of each step waited for its data, in all; cold or warm cache.
"""

import argparse
import json
import multiprocessing
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pattlite_dist.console import print_rows
from pattlite_dist.data.ahead import start_of
from pattlite_dist.data.cache import Cache
from pattlite_dist.data.fetch import Origin
from pattlite_dist.data.loader import BatchDataset, TrainLoader
from pattlite_dist.data.plan import TrainPlan
from pattlite_dist.data.reader import ShardReader
from pattlite_dist.shards.manifest import load_manifest


class Store(Origin):
    """A folder that takes its time."""

    seconds = 0.0

    def read(self, name: str, parse: Callable[[bytes], Any], most: int = -1) -> Any:
        """As `Origin`'s, later."""
        time.sleep(self.seconds)
        return super().read(name, parse, most)


def work(rank: int, options: Any, cache: Path, ahead: bool, together: Any, out: Any) -> None:
    """Take the epoch as one rank; send how long it waited for each batch."""
    manifest, Store.seconds = load_manifest(options.shards), options.fetch
    sizes = [shard.samples for shard in manifest.shards["train"]]
    plan = TrainPlan(sizes, 0, options.window, options.batch)
    reader = ShardReader(Store(str(options.shards)), manifest, "train", Cache(cache))
    if ahead:
        reader.start = start_of(rank)
    loader = TrainLoader(reader, plan, rank, options.ranks, epochs=1)
    if not ahead:
        loader = TrainLoader(BatchDataset(reader), plan, rank, options.ranks)
    batches, waits = iter(loader), []
    together.wait()
    for _ in range(plan.steps):
        begin = time.perf_counter()
        next(batches)
        waits.append(time.perf_counter() - begin)
        together.wait()
        time.sleep(options.step)
    loader.close()
    out.put(waits)


def epoch(options: Any, cache: Path, ahead: bool) -> tuple[float, float]:
    """Seconds to the first batch of all ranks, and waited for all batches."""
    context = multiprocessing.get_context("fork")
    together, out = context.Barrier(options.ranks), context.SimpleQueue()
    processes = [
        context.Process(target=work, args=(rank, options, cache, ahead, together, out))
        for rank in range(options.ranks)
    ]
    for process in processes:
        process.start()
    slowest = [max(waits) for waits in zip(*(out.get() for _ in processes), strict=True)]
    for process in processes:
        process.join()
    return slowest[0], sum(slowest)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", type=Path)
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--window", type=int, default=1 << 17, help="samples shuffled together")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--step", type=float, default=0.05)
    parser.add_argument("--fetch", type=float, default=0.3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder).resolve() / "cache"
        for _ in range(options.rounds):
            for name, ahead in (("when needed", False), ("ahead", True)):
                shutil.rmtree(cache, ignore_errors=True)
                for heat in ("cold", "warm"):
                    found.setdefault(f"{heat}, {name}", []).append(epoch(options, cache, ahead))
    figures = {
        name: [statistics.median(values) for values in zip(*times, strict=True)]
        for name, times in found.items()
    }
    rows = [["decoded", "first, s", "waits, s"]]
    rows += [[name, *(f"{seconds:.2f}" for seconds in both)] for name, both in figures.items()]
    print_rows(rows)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
