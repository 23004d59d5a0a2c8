"""The arithmetic in which a network is scored, the same in validation and evaluation."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def plain_arithmetic(device_type: str) -> Iterator[None]:
    """Compute in float32 as it is: no autocast, and no TF32, which rounds factors to ten bits.

    A score then depends neither on the precision that a network was trained in nor, beyond the
    order of sums, on the algorithm that is chosen for a batch of some size.
    """
    import torch

    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    allowed = matmul.allow_tf32
    with (
        torch.autocast(device_type, enabled=False),
        cudnn.flags(
            enabled=cudnn.enabled,
            benchmark=cudnn.benchmark,
            deterministic=cudnn.deterministic,
            allow_tf32=False,
        ),
    ):
        matmul.allow_tf32 = False
        try:
            yield
        finally:
            matmul.allow_tf32 = allowed
