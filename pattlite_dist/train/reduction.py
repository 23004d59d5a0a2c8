"""Gradients averaged over all ranks in one piece, always in the same order.

DDP sums them in buckets, and arranges the buckets anew after its first step. From three ranks on
the order of a sum matters, and a run that continues begins with a first step: it would not end bit
for bit as one that was never stopped. The weights of these networks fill a few megabytes, for which
one reduction after the backward pass costs no more than buckets during it.
"""

from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.strategies import DDPStrategy

from pattlite_dist.compat.torch import copy_all

SPARE = 2  # numbers that travel with the gradients, at no further cost


class Flat:
    """One buffer for the gradients of some parameters, and a view of it for each.

    Attributes:
        spare: the last places of the buffer, averaged with the gradients.

    Args:
        parameters: of one dtype and device. A view has its parameter's strides, as fused optimisers
            require.
    """

    def __init__(self, parameters: list[torch.nn.Parameter]) -> None:
        self.parameters = parameters
        sizes = [parameter.numel() for parameter in parameters]
        first = parameters[0]
        self.buffer = torch.zeros(sum(sizes) + SPARE, dtype=first.dtype, device=first.device)
        *parts, self.spare = torch.split(self.buffer, [*sizes, SPARE])
        self.views = [
            part.as_strided(parameter.shape, parameter.stride(), part.storage_offset())
            for part, parameter in zip(parts, parameters, strict=True)
        ]

    def average(self) -> None:
        """Replace each gradient by its mean over all ranks. Collective."""
        copy_all(self.views, [p.grad for p in self.parameters if p.grad is not None])
        # Divided first, so that a sum over many ranks does not overflow.
        self.buffer.div_(dist.get_world_size())
        dist.all_reduce(self.buffer)
        for parameter, view in zip(self.parameters, self.views, strict=True):
            parameter.grad = view


class MeanGradients(Callback):
    """Averages the gradients over all ranks before they are clipped and used.

    What has no gradient on one rank has none on the others: it is frozen, or not part of the
    network's graph.
    """

    def __init__(self) -> None:
        self._flat: Flat | None = None

    def on_before_optimizer_step(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", optimizer: Any
    ) -> None:
        """Average them, in the order of the network's parameters."""
        found = [p for p in pl_module.parameters() if p.grad is not None]
        if self._flat is None or not _same(self._flat.parameters, found):
            self._flat = Flat(found)  # at the start, and where a stage begins
        logged = getattr(pl_module, "logged", None)  # the module's numbers, in steps that it logs
        if logged is not None:
            self._flat.spare.copy_(logged)
        self._flat.average()
        if logged is not None:
            logged.copy_(self._flat.spare)


def _same(some: list[torch.nn.Parameter], others: list[torch.nn.Parameter]) -> bool:
    return len(some) == len(others) and all(
        one is other for one, other in zip(some, others, strict=True)
    )


class PlainRanks(DDPStrategy):
    """Ranks as under Lightning's DDP, but the network is not wrapped: see `MeanGradients`."""

    def configure_ddp(self) -> None:
        """Begin with rank 0's weights. Collective."""
        assert self.model is not None
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            dist.broadcast(tensor.detach(), src=0)
