"""Images per second and memory of the stream and its peers, in one run, one thread each.

    python benchmarks/stream.py shards/fer2013 [--mosaic PYTHON] [--energon PYTHON] [--grain PYTHON]
        [--order] [--cpu] [--json figures.json]

Every figure comes from a separate process. Ours is measured cold (fetch, check, decode into the
cache: the first epoch) and warm (gathered from the memory map: every later one). The options name
the interpreters of environments with mosaicml-streaming, megatron-energon or grain, each with torch
and torchvision; without one, that peer is skipped.

`--order` measures no speed: it counts which samples the loaders see in an epoch, and what a stop
and a resumption on other numbers of ranks change (`order.py`). `--cpu` counts seconds of the
process instead of the clock's, for a machine that others use as well.
"""

import argparse
import itertools
import json
import shutil
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
import order
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
    begin, used = time.perf_counter(), time.process_time()
    images = sum(len(batch["image"]) for batch in loader)
    rate = images / (time.perf_counter() - begin)
    busy = images / (time.process_time() - used)
    grown = peers.memory()
    return {
        "images_per_second": rate, "images_per_cpu_second": busy,
        "own_mb": grown[0] - own, "resident_mb": grown[1] - resident,
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


def prepared(python: str, shards: Path, folder: Path) -> Path:
    """A copy of a set, which Energon has indexed."""
    shutil.copytree(shards, folder / "energon")
    in_its_own_process(python, order.__file__, "prepare", folder / "energon")
    return folder / "energon"


def run_all(
    shards: Path, others: dict[str, str], seconds: float, folder: Path
) -> dict[str, Figures]:
    """Every figure, by kind and name, with the peers of each kind right after ours.

    Args:
        shards: of the set.
        others: the interpreters of peers that have environments of their own.
        seconds: per measurement.
        folder: for temporary files.
    """
    script, cache = Path(peers.__file__), folder / "cache"
    unpack(shards, folder / "pictures")
    where = {"webdataset": shards, "imagefolder": folder / "pictures"}
    python = {"webdataset": sys.executable, "imagefolder": sys.executable}
    if "mosaic" in others:
        pictures, where["mosaic"] = folder / "pictures", folder / "mds"
        in_its_own_process(others["mosaic"], script, "write-mosaic", pictures, where["mosaic"])
    if "energon" in others:
        where["energon"] = prepared(others["energon"], shards, folder)
    if "grain" in others:
        where["grain"] = shards
    python |= others
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
    "energon": "Megatron-Energon (decodes every epoch)",
    "grain": "grain (decodes every epoch)",
}
KINDS = {
    "cold": "first epoch: fetched, checked, decoded, uint8 48 px",
    "uint8": "warm: uint8 48 px",
    "float": f"warm: float {SIZE} px, augmented, normalised",
}


def orders(shards: Path, others: dict[str, str], folder: Path) -> dict[str, Figures]:
    """Which samples are seen, by loader."""
    script = order.__file__
    found = {"ours": in_its_own_process(sys.executable, script, "ours", shards)}
    for peer in ("energon", "grain"):
        if peer not in others:
            continue
        where = prepared(others[peer], shards, folder) if peer == "energon" else shards
        for name in (peer, f"{peer}-endless"):
            found[name] = in_its_own_process(others[peer], script, name, where)
    return found


def table(figures: dict[str, Figures], unit: str = "images_per_second") -> list[list[str]]:
    """Rows, header first; the speed-up is our rate over the peer's."""
    second = "images/s" if unit == "images_per_second" else "images per s of CPU"
    rows = [["batches of 128", "who", second, "our speed-up", "own MB", "resident MB"]]
    for key, figure in figures.items():
        kind, name = key.split()
        mine, rate = figures[f"{kind} ours"][unit], figure[unit]
        ratio = "" if name == "ours" else f"{mine / rate:.1f}"
        memory = [f"{figure[part]:.0f}" for part in ("own_mb", "resident_mb")]
        rows.append([KINDS[kind], NAMES[name], f"{rate:,.0f}", ratio, *memory])
        if key == "cold ours":  # webdataset decodes in every epoch, as in the first
            rate = figures["uint8 webdataset"][unit]
            rows.append([KINDS[kind], "webdataset", f"{rate:,.0f}", f"{mine / rate:.1f}", "", ""])
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shards", type=Path)
    for peer in ("--mosaic", "--energon", "--grain"):
        parser.add_argument(peer, help="Python interpreter that has it")
    parser.add_argument("--order", action="store_true", help="no speed: which samples are seen")
    parser.add_argument("--cpu", action="store_true", help="seconds of CPU, not of the clock")
    parser.add_argument("--seconds", type=float, default=8.0, help="per measurement")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", choices=list(KINDS), help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(ours(options.one, options.shards, options.cache, options.seconds)))
        return
    others = {peer: getattr(options, peer) for peer in ("mosaic", "energon", "grain")}
    others = {peer: python for peer, python in others.items() if python}
    with tempfile.TemporaryDirectory() as folder:
        if options.order:
            figures = orders(options.shards, others, Path(folder))
            rows = [order.HEADER, *(order.row(name, found) for name, found in figures.items())]
        else:
            figures = run_all(options.shards, others, options.seconds, Path(folder))
            rows = table(figures, "images_per_cpu_second" if options.cpu else "images_per_second")
    print_rows(rows)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
