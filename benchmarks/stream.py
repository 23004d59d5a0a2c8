"""Images a second of the stream beside stock webdataset's, in one run, on one core.

    python benchmarks/stream.py shards/fer2013 [--json figures.json]

Every line says what it delivers. Ours is measured cold (read, check, decode into the cache) and
warm (gathered from the memory map); stock webdataset as its README shows, in one process.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import webdataset
from torchvision.transforms import v2

from pattlite_dist.config import AugmentConfig
from pattlite_dist.console import print_rows
from pattlite_dist.data.augment import Preprocess, draw
from pattlite_dist.data.loader import TrainLoader
from pattlite_dist.data.plan import TrainPlan
from pattlite_dist.data.reader import ShardReader
from pattlite_dist.shards.manifest import load_manifest

BATCH, SIZE = 128, 96
MEAN = STD = (0.5, 0.5, 0.5)


def rate(batches: Callable[[], Iterable[Any]], seconds: float = 5.0) -> float:
    """Images a second: at least one pass, and passes until the time is over."""
    images, start = 0, time.perf_counter()
    while not images or time.perf_counter() - start < seconds:
        for batch in batches():
            images += len(batch)
    return images / (time.perf_counter() - start)


def ours(folder: Path, cache: Path) -> TrainLoader:
    """The loader of one rank that is the whole world."""
    manifest = load_manifest(folder)
    plan = TrainPlan(tuple(s.samples for s in manifest.shards["train"]), 0, 1 << 17, BATCH)
    return TrainLoader(ShardReader(str(folder), manifest, "train", cache), plan, 0, 1)


def augmented(loader: TrainLoader) -> Iterable[torch.Tensor]:
    """Flip, rotation, resize and normalisation on the batch."""
    preprocess, config = Preprocess(SIZE, MEAN, STD), AugmentConfig(flip=0.5, rotation=10)
    for batch in loader:
        where = (batch["epoch"], batch["step"], BATCH)
        yield preprocess(batch["image"], draw(config, 0, *where, slice(0, BATCH)))


def stock(folder: Path, transform: Callable[[Any], Any] | None) -> Iterable[Any]:
    """Read as webdataset's README does: shuffle, decode, per-sample transforms, batched."""
    urls = [str(folder / shard.name) for shard in load_manifest(folder).shards["train"]]
    data = webdataset.WebDataset(urls, shardshuffle=len(urls)).shuffle(1000)
    data = data.decode("l8" if transform is None else "pil").to_tuple("png", "cls")
    if transform is not None:
        data = data.map_tuple(transform, lambda label: label)
    return (images for images, _ in data.batched(BATCH, partial=False))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shards", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    per_sample = v2.Compose(
        [v2.Grayscale(3), v2.Resize((SIZE, SIZE)), v2.RandomHorizontalFlip(),
         v2.RandomRotation(10), v2.ToImage(), v2.ToDtype(torch.float32, scale=True),
         v2.Normalize(MEAN, STD)]
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        loader = ours(options.shards, Path(folder))
        images = lambda: (batch["image"] for batch in loader)  # noqa: E731
        figures = {
            "ours, cold: uint8 48 px": rate(images, 0),
            "webdataset: uint8 48 px": rate(lambda: stock(options.shards, None)),
            "ours, warm: uint8 48 px": rate(images),
            f"webdataset: float {SIZE} px, augmented": rate(
                lambda: stock(options.shards, per_sample)
            ),
            f"ours, warm: float {SIZE} px, augmented": rate(lambda: augmented(loader)),
        }
    peers = list(figures.values())
    ratios = [peers[0] / peers[1], 1, peers[2] / peers[1], 1, peers[4] / peers[3]]
    rows = [["what is delivered, batches of 128", "images/s", "over webdataset"]]
    for (name, value), ratio in zip(figures.items(), ratios, strict=True):
        rows.append([name, f"{value:,.0f}", f"{ratio:.1f}"])
    print_rows(rows)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
