"""From a run, a checkpoint or an exported file to a model; PyTorch is imported only if needed."""

import os
from pathlib import Path
from typing import Literal

from pattlite_dist.errors import UserError
from pattlite_dist.location import is_pretrained
from pattlite_dist.model.weights import find
from pattlite_dist.predict.model import Model
from pattlite_dist.predict.network import Network

TAKES = (
    "a run folder, a checkpoint (.ckpt), an exported .onnx or .safetensors file, or `pretrained`"
)


def load(
    target: str | os.PathLike[str],
    *,
    detector: str | os.PathLike[str] | None = None,
    accelerator: Literal["auto", "cpu", "gpu"] = "auto",
) -> Model:
    """Load a trained network.

    Args:
        target: a run folder (its best checkpoint on val is used), one of its checkpoints, or a
            file that `pattlite export` wrote as .onnx or .safetensors; or `pretrained`, the best
            network that comes with the package, or another one, `pretrained:NAME`. No code is run
            from any.
        detector: a YuNet model (.onnx) to find faces with; default: the one that the extra
            `faces` installs.
        accelerator: where a run, a checkpoint or a .safetensors file is computed; .onnx files use
            the CPU.

    Raises:
        UserError: there is no such model, it is damaged, it lacks a package that it requires, or
            its predictions depend on the batch (`model.attention=batch`).
    """
    return Model(_network(Path(target), accelerator), detector)


def _network(path: Path, accelerator: str) -> Network:
    if is_pretrained(str(path)):
        path = find(str(path))
    if not path.exists():
        raise UserError(f"{path} does not exist; give {TAKES}")
    if path.suffix == ".onnx":
        from pattlite_dist.predict.onnxfile import read_onnx

        return read_onnx(path)
    if path.suffix == ".pt2":
        raise UserError(
            f"{path}: PyTorch may run code that a .pt2 file contains, so it is not opened here; "
            f"use torch.export.load yourself if you trust it, or give {TAKES}"
        )
    if path.is_file() and path.suffix not in (".ckpt", ".safetensors"):
        raise UserError(f"{path} is not a model; give {TAKES}")
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"{path} requires PyTorch ({error}); install it, or give an exported .onnx file"
        ) from None
    from pattlite_dist.predict.torchmodel import read_network

    return read_network(path, accelerator)
