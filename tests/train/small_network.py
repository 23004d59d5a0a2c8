"""The command line with a one-layer backbone, for tests whose time grows with the layers."""

import sys

from torch import nn

from pattlite_dist.cli import main
from pattlite_dist.model import build
from pattlite_dist.model.backbones import MobileNetV2


class SmallBackbone(MobileNetV2):
    """One convolution instead of the layers before the cut."""

    def __init__(self, cut: int) -> None:
        nn.Module.__init__(self)
        self.features = nn.Sequential(nn.Conv2d(3, 32, 16, stride=16))


if __name__ == "__main__":
    build.MobileNetV2 = SmallBackbone  # type: ignore[misc]
    sys.exit(main())
