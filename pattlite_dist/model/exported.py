"""Exported .safetensors files: weights, and the description of the network that they belong to."""

from pathlib import Path
from typing import Any

import torch

from pattlite_dist.errors import UserError
from pattlite_dist.model.description import KEY, Description, parse_description

SUFFIX = ".safetensors"


def read_tensors(path: Path) -> tuple[str, dict[str, torch.Tensor]]:
    """The description in a .safetensors file, empty if there is none, and its tensors.

    Those in half precision are converted to float32, in which networks compute.

    Raises:
        UserError: the file is damaged or cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(KEY, "")
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is not a usable .safetensors file ({reason})") from error
    return text, {
        name: value.float() if value.dtype == torch.half else value for name, value in state.items()
    }


def read_exported(path: Path) -> tuple[Description, dict[str, torch.Tensor]]:
    """The description in a .safetensors file of ours, and its weights by their networks' names.

    Raises:
        UserError: the file is damaged, or was not written by `export`.
    """
    text, state = read_tensors(path)
    description = parse_description(text, str(path))
    if description.config is None:
        raise UserError(f"{path} does not contain a configuration; export the run again")
    return description, state


def as_checkpoint(description: Description, state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """What a checkpoint of the same weights contains, as far as they are used and not continued."""
    return {
        "epoch": description.epoch,
        "global_step": description.step,
        "state_dict": {f"model.{name}": value for name, value in state.items()},
        "pattlite": {
            "config": description.config,
            "labels": description.labels,
            "shards": description.shards,
            "image": list(description.image.shape),
        },
    }
