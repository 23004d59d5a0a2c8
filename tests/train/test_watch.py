import math

import pytest
import torch

from pattlite_dist.train.watch import NEVER, LossWatch


def seen(*losses: float, start: int = 1) -> int:
    watch = LossWatch()
    for step, loss in enumerate(losses, start):
        watch.see(torch.tensor(loss, requires_grad=True), step)
    return watch.first()


def test_good_losses_are_never_bad() -> None:
    assert LossWatch().first() == NEVER
    assert seen(1.0, 0.0, 3e38, -2.0) == NEVER


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_first_bad_step_is_kept_whatever_comes_after(bad: float) -> None:
    assert seen(1.0, bad, 1.0, math.nan, 0.5, start=7) == 8
    assert seen(bad) == 1
