"""Small backbones, for tests whose time grows with the layers.

    python -m tests.train.small_network train …

is the command line with the smallest of them.
"""

import sys

from torch import nn
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.ops import Conv2dNormActivation

from pattlite_dist.cli import main
from pattlite_dist.model import build
from pattlite_dist.model.backbones import MobileNetV2


class SmallBackbone(MobileNetV2):
    """One convolution instead of the layers before the cut."""

    def __init__(self, cut: int, width_mult: float = 1.0) -> None:
        nn.Module.__init__(self)
        self.features = nn.Sequential(nn.Conv2d(3, 32, 16, stride=16))


class TwoBlocks(MobileNetV2):
    """Layers of each kind that there are, with the output of seven blocks: 32 channels, stride 8.

    A step takes a quarter of the time.
    """

    def __init__(self, cut: int, width_mult: float = 1.0) -> None:
        nn.Module.__init__(self)
        self.features = nn.Sequential(
            Conv2dNormActivation(3, 32, 8, 8, 0, activation_layer=nn.ReLU6, inplace=False),
            InvertedResidual(32, 32, stride=1, expand_ratio=2),
        )


if __name__ == "__main__":
    from torch._inductor import cpu_vec_isa

    cpu_vec_isa.supported_vec_isa_list.clear()  # else the compiler first tries each for seconds
    build.MobileNetV2 = SmallBackbone  # type: ignore[misc]
    sys.exit(main())
