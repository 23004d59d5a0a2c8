"""Finds the first step with a NaN or infinite loss."""

import torch

NEVER = 2**62  # a step number that no run reaches


class LossWatch:
    """Recorded on the loss's own device without waiting for it; only reading the result waits."""

    def __init__(self) -> None:
        self._first: torch.Tensor | None = None

    def see(self, loss: torch.Tensor, step: int) -> None:
        """Record a step's loss, a scalar tensor.

        Args:
            loss: of this rank.
            step: number of steps taken, including this one.
        """
        bad = torch.where(loss.detach().isfinite(), NEVER, step)
        self._first = bad if self._first is None else torch.minimum(self._first, bad)

    def first(self) -> int:
        """The first bad step of this rank; `NEVER` if all were good."""
        return NEVER if self._first is None else int(self._first)
