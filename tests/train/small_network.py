"""The command line with a two-layer backbone, for tests whose time grows with the layers."""

import sys

from torch import nn

from pattlite_dist.cli import main
from pattlite_dist.model import build
from pattlite_dist.model.backbones import MobileNetV2


class SmallBackbone(MobileNetV2):
    """Two convolutions instead of the layers before the cut."""

    def __init__(self, cut: int) -> None:
        nn.Module.__init__(self)
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=4, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU6(),
            nn.Conv2d(16, 32, 3, stride=4, padding=1),
        )  # fmt: skip


if __name__ == "__main__":
    build.MobileNetV2 = SmallBackbone  # type: ignore[misc]
    sys.exit(main())
