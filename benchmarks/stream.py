"""Images per second and memory of the stream and its peers, in one run, one thread each.

    python benchmarks/stream.py shards/fer2013 [--mosaic PYTHON] [--json figures.json]

Every figure comes from a separate process. Ours is measured cold (fetch, check, decode into the
cache: the first epoch) and warm (gathered from the memory map: every later one). `--mosaic` names
the interpreter of an environment with mosaicml-streaming; without it, that peer is skipped.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from pattlite_dist.console import print_rows
from pattlite_dist.data.augment import Preprocess, draw
from pattlite_dist.data.cache import Cache
from pattlite_dist.data.fetch import Origin
from pattlite_dist.data.loader import TrainLoader
from pattlite_dist.data.plan import TrainPlan
from pattlite_dist.data.reader import ShardReader
from pattlite_dist.data.settings import AugmentConfig
from pattlite_dist.shards.manifest import load_manifest
from pattlite_dist.train.trainer import reuse_memory

sys.path.insert(0, str(Path(__file__).parent))
import peers
from peers import BATCH, MEAN, SIZE, STD, measure

Figures = dict[str, Any]


def loader_of(folder: Path, cache: Path, rank: int = 0, world: int = 1) -> TrainLoader:
    """The loader of a rank."""
    manifest = load_manifest(folder)
    plan = TrainPlan([shard.samples for shard in manifest.shards["train"]], 0, 1 << 17, BATCH)
    return TrainLoader(
        ShardReader(Origin(str(folder)), manifest, "train", Cache(cache)), plan, rank, world
    )


def uint8(loader: TrainLoader) -> Iterator[torch.Tensor]:
    """Batches from the loader, epoch after epoch."""
    return (batch["image"] for batch in itertools.chain.from_iterable(itertools.repeat(loader)))


def augmented(loader: TrainLoader) -> Iterator[torch.Tensor]:
    """Flip, rotation, resize and normalisation on the batch."""
    preprocess, config = Preprocess(SIZE, MEAN, STD), AugmentConfig(flip=0.5, rotation=10)
    for batch in itertools.chain.from_iterable(itertools.repeat(loader)):
        where = (batch["epoch"], batch["step"], BATCH)
        yield preprocess(batch["image"], draw(config, 0, *where, slice(0, BATCH)))


def ours(kind: str, folder: Path, cache: Path, seconds: float) -> Figures:
    """Measure one of our figures, in this process."""
    torch.set_num_threads(1)
    reuse_memory()  # as training does
    loader = loader_of(folder, cache)
    if kind != "cold":
        return measure(uint8(loader) if kind == "uint8" else augmented(loader), seconds)
    own, resident = peers.memory()
    begin = time.perf_counter()
    images = sum(len(batch["image"]) for batch in loader)
    rate = images / (time.perf_counter() - begin)
    grown = peers.memory()
    return {
        "images_per_second": rate, "own_mb": grown[0] - own, "resident_mb": grown[1] - resident,
    }  # fmt: skip


def in_its_own_process(*arguments: object) -> Figures:
    """The JSON that a child prints as its last line."""
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def unpack(folder: Path, pictures: Path) -> None:
    """Unpack the training shards' PNGs for ImageFolder: a file per sample, a folder per class."""
    import webdataset

    urls = sorted(str(path) for path in folder.glob("train-*.tar"))
    for sample in webdataset.WebDataset(urls, shardshuffle=False):
        path = pictures / sample["cls"].decode() / f"{sample['__key__']}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sample["png"])


def run_all(shards: Path, mosaic: str | None, seconds: float, folder: Path) -> dict[str, Figures]:
    """Every figure, by kind and name, with the peers of each kind right after ours."""
    script, cache = Path(peers.__file__), folder / "cache"
    unpack(shards, folder / "pictures")
    where = {"webdataset": shards, "imagefolder": folder / "pictures"}
    python = {"webdataset": sys.executable, "imagefolder": sys.executable}
    if mosaic:
        in_its_own_process(mosaic, script, "write-mosaic", folder / "pictures", folder / "mds")
        where["mosaic"], python["mosaic"] = folder / "mds", mosaic
    figures: dict[str, Figures] = {}
    for kind in ("cold", "uint8", "float"):
        figures[f"{kind} ours"] = in_its_own_process(
            sys.executable, __file__, shards, "--one", kind, "--cache", cache, "--seconds", seconds
        )
        for name in where if kind != "cold" else ():
            figures[f"{kind} {name}"] = in_its_own_process(
                python[name], script, name, where[name], kind, seconds
            )
    return figures


NAMES = {
    "ours": "ours",
    "webdataset": "webdataset (decodes every epoch)",
    "imagefolder": "ImageFolder + DataLoader (decodes every epoch)",
    "mosaic": "mosaicml-streaming (decodes every epoch)",
}
KINDS = {
    "cold": "first epoch: fetched, checked, decoded, uint8 48 px",
    "uint8": "warm: uint8 48 px",
    "float": f"warm: float {SIZE} px, augmented, normalised",
}


def table(figures: dict[str, Figures]) -> list[list[str]]:
    """Rows, header first; the speed-up is our rate over the peer's."""
    rows = [["batches of 128", "who", "images/s", "our speed-up", "own MB", "resident MB"]]
    for key, figure in figures.items():
        kind, name = key.split()
        mine, rate = figures[f"{kind} ours"]["images_per_second"], figure["images_per_second"]
        ratio = "" if name == "ours" else f"{mine / rate:.1f}"
        memory = [f"{figure[part]:.0f}" for part in ("own_mb", "resident_mb")]
        rows.append([KINDS[kind], NAMES[name], f"{rate:,.0f}", ratio, *memory])
        if key == "cold ours":  # webdataset decodes in every epoch, as in the first
            rate = figures["uint8 webdataset"]["images_per_second"]
            rows.append([KINDS[kind], "webdataset", f"{rate:,.0f}", f"{mine / rate:.1f}", "", ""])
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shards", type=Path)
    parser.add_argument("--mosaic", help="Python interpreter with mosaicml-streaming")
    parser.add_argument("--seconds", type=float, default=8.0, help="per measurement")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", choices=list(KINDS), help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(ours(options.one, options.shards, options.cache, options.seconds)))
        return
    with tempfile.TemporaryDirectory() as folder:
        figures = run_all(options.shards, options.mosaic, options.seconds, Path(folder))
    print_rows(table(figures))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
