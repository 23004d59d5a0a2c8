"""Export a run: made, run and compared before anything is written."""

import contextlib
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from pattlite_dist.compat.torch import check as check_torch
from pattlite_dist.data.module import FERData
from pattlite_dist.errors import UserError
from pattlite_dist.evaluation.calibrating import manifest_with_val
from pattlite_dist.evaluation.calibration import calibrate, known_temperature
from pattlite_dist.evaluation.collect import collect
from pattlite_dist.evaluation.schema import EVALUATION_NAME, Evaluation, read_evaluation
from pattlite_dist.evaluation.subject import Subject, read_subject
from pattlite_dist.export import graph as graphs
from pattlite_dist.export.card import card
from pattlite_dist.export.check import (
    HALF,
    TOLERANCE,
    Checked,
    Gather,
    Predict,
    check,
    require_accurate,
    require_equal,
)
from pattlite_dist.export.quantize import to_int8
from pattlite_dist.export.training import account
from pattlite_dist.files import atomic_write, write_text
from pattlite_dist.model.build import refuse_batch_dependent
from pattlite_dist.model.description import Description
from pattlite_dist.model.exported import SUFFIX
from pattlite_dist.predict.onnxfile import OnnxNetwork
from pattlite_dist.predict.torchmodel import image_form, network_of, read_network
from pattlite_dist.runtime import world as worlds
from pattlite_dist.shards.manifest import SplitName
from pattlite_dist.shards.sources.base import Pixels
from pattlite_dist.train.temperature import tempered
from pattlite_dist.train.trainer import quiet_libraries

Format = Literal["safetensors", "safetensors-half", "onnx", "onnx-int8", "pt2"]
SUFFIXES: dict[Format, str] = {
    "safetensors": SUFFIX, "safetensors-half": SUFFIX, "onnx": ".onnx", "onnx-int8": ".onnx",
    "pt2": ".pt2",
}  # fmt: skip
_RANGES = 512  # images of train that int8's ranges are measured on


def format_of(out: Path, form: Format | None) -> Format:
    """The format to write: the given one, or the first that goes with the file's name.

    Raises:
        UserError: the name does not go with the format, or with any.
    """
    fitting = [name for name in get_args(Format) if SUFFIXES[name] == out.suffix]
    if form is None and not fitting:
        known = ", ".join(dict.fromkeys(SUFFIXES.values()))
        raise UserError(f"{out}: give it a name that ends in {known}, or name a --format")
    if form is not None and form not in fitting:
        raise UserError(f"{out}: a file of --format {form} must have a name in {SUFFIXES[form]}")
    return form or fitting[0]


def export(
    target: Path,
    out: Path,
    form: Format | None = None,
    shards: str | None = None,
    notes: Path | None = None,
) -> tuple[Path, Checked]:
    """Write a run's best checkpoint on val, or a checkpoint, as one file with a card beside it.

    Args:
        target: run folder, checkpoint, exported .safetensors file, or `pretrained[:NAME]`.
        out: the file.
        form: its format; default: by its name.
        shards: to use instead of the run's own.
        notes: Markdown for the card, such as further looks at test.

    Returns:
        The card, and what was found when the file was compared with the run.

    Raises:
        UserError: the run cannot be exported, the shards are not there to compare on, or the file
            would differ from the run; nothing has been written then.
    """
    form = format_of(out, form)
    said = [] if notes is None else [_read_notes(notes)]
    quiet_libraries()
    check_torch()
    subject = read_subject(target, shards)
    model = subject.build()
    refuse_batch_dependent(model, "export")
    manifest, image = manifest_with_val(subject), image_form(subject)
    if manifest.image != image:
        raise UserError(
            f"{subject.path} was trained on images of {image.width}x{image.height} pixels and "
            f"{image.channels} channel(s), but the shards have others; give shards like its own"
        )
    cpu = torch.device("cpu")
    data = subject.stream(model, manifest, worlds.detect())
    try:
        val = collect(subject.load(model, cpu), data, "val", cpu)
        found = known_temperature(subject) or calibrate(subject, val, manifest.fingerprint())
        table = tempered(val.probabilities["one"], found.temperature)
        network = network_of(subject, image, cpu)
        description = network.description.model_copy(
            update={"temperature": found.temperature, "manifest": found.manifest}
        )
        network.model.to(memory_format=torch.contiguous_format)
        graph = graphs.WholeGraph(network.model, data.preprocess, found.temperature)
        content, predict = _make(form, graph, description, data)
        checked = check(predict, _gather(data, "val"), table, val.labels)
    finally:
        data.close()
    if form == "onnx-int8":
        require_accurate(checked)
    else:
        require_equal(checked, HALF if form == "safetensors-half" else TOLERANCE)
    training = [*account(subject), *said]
    text = card(
        out, form, len(content), description, manifest, found, checked, _evaluated(subject),
        training,
    )  # fmt: skip
    return _write(out, content, text), checked


def _read_notes(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read --notes {path} ({error}); give a Markdown file") from error


def _make(
    form: Format, graph: graphs.WholeGraph, description: Description, data: FERData
) -> tuple[bytes, Predict]:
    """The bytes of a file, and a function that runs just these."""
    bare = description.model_copy(update={"config": None})
    if SUFFIXES[form] == SUFFIX:
        content = graphs.to_safetensors(graph.model, description, form == "safetensors-half")
        return content, _from_file(content)
    if form == "pt2":
        content = graphs.to_pt2(graph, bare)
        module = torch.export.load(io.BytesIO(content)).module()
        return content, lambda images: module(torch.from_numpy(images)).double().numpy()
    content = graphs.to_onnx(graph, bare)
    if form == "onnx-int8":
        every = max(1, data.manifest.samples("train") // _RANGES)
        ids = np.arange(0, data.manifest.samples("train"), every)
        content = to_int8(content, _gather(data, "train")(ids), bare)
    return content, OnnxNetwork(content, "the exported file").probabilities


def _from_file(content: bytes) -> Callable[[Pixels], NDArray[np.float64]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "exported.safetensors")
        path.write_bytes(content)
        return read_network(path, "cpu").probabilities


def _gather(data: FERData, split: SplitName) -> Gather:
    reader = data.reader(split)
    return lambda ids: np.ascontiguousarray(reader.gather(ids).block.images)


def _evaluated(subject: Subject) -> Evaluation | None:
    """The evaluation of the same checkpoint."""
    if not (subject.run / EVALUATION_NAME).is_file():
        return None
    found = read_evaluation(subject.run)
    same = (found.checkpoint, found.step) == (subject.path.name, subject.content["global_step"])
    return found if same else None


def _write(out: Path, content: bytes, text: str) -> Path:
    """Write the file and its card: both, or neither."""
    beside = out.with_name(f"{out.name}.md")
    before = beside.read_bytes() if beside.is_file() else None
    write_text(beside, text)
    try:
        with atomic_write(out) as stream:
            stream.write(content)
    except BaseException:
        with contextlib.suppress(OSError):
            if before is None:
                beside.unlink()
            else:
                beside.write_bytes(before)
        raise
    return beside
