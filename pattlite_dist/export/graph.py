"""The whole way from pixels to probabilities as one network, and its export by PyTorch."""

import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import torch
from torch import nn

from pattlite_dist.data.augment import Preprocess
from pattlite_dist.errors import UserError
from pattlite_dist.model.description import KEY, Description
from pattlite_dist.predict.onnxfile import INSTALL
from pattlite_dist.shards.manifest import ImageInfo

OPSET = 20
EXAMPLE = 2  # images; a batch of 1 would be fixed
FILE = f"{KEY}.json"  # the description in a .pt2 file


class WholeGraph(nn.Module):
    """Preprocessing, network and calibrated softmax.

    Args:
        model: the network, in evaluation mode.
        prepare: converts uint8 images to its input.
        temperature: that the logits are divided by.
    """

    def __init__(self, model: nn.Module, prepare: Preprocess, temperature: float) -> None:
        super().__init__()
        self.model, self.prepare, self.temperature = model, prepare, temperature
        self.requires_grad_(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map uint8 [n, C, H, W] to probabilities, float32 [n, classes]."""
        logits: torch.Tensor = self.model(self.prepare(images))
        return (logits / self.temperature).softmax(1)


def program_of(graph: WholeGraph, image: ImageInfo) -> torch.export.ExportedProgram:
    """The graph as PyTorch traces it, for any number of images of this form.

    Raises:
        UserError: PyTorch cannot export it.
    """
    draw = torch.Generator().manual_seed(0)
    example = torch.randint(0, 256, (EXAMPLE, *image.shape), dtype=torch.uint8, generator=draw)
    with _quiet(), _explained():
        return torch.export.export(
            graph.eval(), (example,), dynamic_shapes=({0: torch.export.Dim("n")},)
        )


def to_onnx(graph: WholeGraph, description: Description) -> bytes:
    """The graph as ONNX.

    Raises:
        UserError: a package of the extra `onnx` is not installed, or PyTorch cannot export it.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"exporting to ONNX requires {error.name}; get it with {INSTALL}") from None
    program = program_of(graph, description.image)
    with _quiet(), _explained():
        exported: Any = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["probabilities"],
            verbose=False,
        )
    return describe(exported.model_proto, description)


def describe(proto: Any, description: Description) -> bytes:
    """The bytes of an ONNX model with a description, and without what it was made from."""
    del proto.metadata_props[:]
    for node in proto.graph.node:  # where in the Python code each was: 60 % of a small file
        del node.metadata_props[:]
        node.ClearField("doc_string")
    proto.metadata_props.add(key=KEY, value=to_text(description))
    data: bytes = proto.SerializeToString()
    return data


def to_pt2(graph: WholeGraph, description: Description) -> bytes:
    """The graph as an exported program of PyTorch.

    Raises:
        UserError: PyTorch cannot export it.
    """
    stream = io.BytesIO()
    program = program_of(graph, description.image)
    with _quiet(), _explained():
        torch.export.save(program, stream, extra_files={FILE: to_text(description)})
    return stream.getvalue()


def to_safetensors(model: nn.Module, description: Description, half: bool = False) -> bytes:
    """The weights, and in the metadata all that is needed to build their network.

    Args:
        model: with the weights.
        description: of it.
        half: whether to round them to half precision, but for tensors that exceed its range.
    """
    from safetensors.torch import save

    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    if half:
        state = {name: _halved(value) for name, value in state.items()}
    return save(state, {KEY: to_text(description)})


def _halved(value: torch.Tensor) -> torch.Tensor:
    small = value.half()
    return small if value.is_floating_point() and bool(small.isfinite().all()) else value


def to_text(description: Description) -> str:
    """As JSON."""
    return json.dumps(description.model_dump(mode="json", exclude_none=True))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' own messages, which are for those who develop them."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the exporters raise anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"PyTorch {torch.__version__} cannot export this network ({reason}); use --format "
            "safetensors"
        ) from error
