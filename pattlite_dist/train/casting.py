"""Autocast's copies of the weights, made together: in two launches a step instead of two for each.

Under autocast, every convolution and linear layer rounds its weights to bfloat16, and on the way
back their gradients are converted one by one. On a GPU that is a fifth of a small network's
launches. Here both are done for all weights at once, to the same bits.
"""

from typing import Any

import torch
from torch import nn

from pattlite_dist.compat.torch import copy_all

_CAST = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)  # what autocast computes in bfloat16


def _cast(tensors: list[torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
    found = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
    if found:
        copy_all(found, tensors)
    return found


class _Rounded(torch.autograd.Function):
    """Float32 weights to bfloat16, and the gradients of these to float32."""

    @staticmethod
    def forward(ctx: Any, *weights: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(_cast(list(weights), torch.bfloat16))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(_cast(list(gradients), torch.float32))


def rounded_weights(network: nn.Module) -> dict[str, torch.Tensor]:
    """The weights that autocast would round, rounded, by their names in the network."""
    named = {
        f"{prefix}.{name}" if prefix else name: weight
        for prefix, module in network.named_modules()
        if isinstance(module, _CAST)
        for name, weight in module.named_parameters(recurse=False)
    }
    trained = {name: weight for name, weight in named.items() if weight.requires_grad}
    frozen = {name: weight for name, weight in named.items() if not weight.requires_grad}
    found = dict(zip(frozen, _cast(list(frozen.values()), torch.bfloat16), strict=True))
    if trained:  # apart, so that no gradient of what is frozen is computed
        found.update(zip(trained, _Rounded.apply(*trained.values()), strict=True))
    return found


def forward(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The network's output; under autocast, its weights are rounded together."""
    if not torch.is_autocast_enabled(images.device.type):
        logits: torch.Tensor = network(images)
        return logits
    return torch.func.functional_call(network, rounded_weights(network), (images,))  # type: ignore[no-any-return]
