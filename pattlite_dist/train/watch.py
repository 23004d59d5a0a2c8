"""Watches the loss: which step was the first whose loss is NaN or infinite."""

import torch

NEVER = 2**62  # a step that no run reaches


class LossWatch:
    """Notes on the loss's own device, without waiting for it; asking does wait."""

    def __init__(self) -> None:
        self._first: torch.Tensor | None = None

    def see(self, loss: torch.Tensor, step: int) -> None:
        """Note a step's loss, a tensor of one number.

        Args:
            loss: of this rank.
            step: how many steps have been taken with this one.
        """
        bad = torch.where(loss.detach().isfinite(), NEVER, step)
        self._first = bad if self._first is None else torch.minimum(self._first, bad)

    def first(self) -> int:
        """The first bad step of this rank, `NEVER` where all were good."""
        return NEVER if self._first is None else int(self._first)
