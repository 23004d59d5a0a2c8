"""Patch extraction: from a feature map to the tokens that attention runs over."""

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from pattlite_dist.model.backbones import SameConv2d

_LARGEST_GRID = 8


def published_strides(side: int) -> tuple[int, int]:
    """Strides of the two separable convolutions for a feature map of this side.

    Each is the largest one, up to the published 4 and 2, that leaves at least two places per
    side. A map of 14 (224 px) gets the published (4, 2). It has 2 x 2 patches, as does every
    smaller map: 6 (96 px) gets (4, 1), 4 (64 px) gets (3, 1), 3 (48 px) gets (2, 1).
    """
    first = max(stride for stride in (1, 2, 3, 4) if -(-side // stride) >= 2 or stride == 1)
    left = -(-side // first)
    return first, 2 if left >= 3 else 1


class SeparableConv2d(nn.Module):
    """Keras' SeparableConv2D: depthwise, then pointwise with a bias; SAME padding."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.depthwise = SameConv2d(inputs, inputs, kernel, stride, groups=inputs, bias=False)
        self.pointwise = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [n, C, H, W] to [n, outputs, ceil(H / stride), ceil(W / stride)]."""
        return self.pointwise(self.depthwise(x))  # type: ignore[no-any-return]


class PatchExtraction(nn.Module):
    """PAtt-Lite's patch extraction (arXiv:2306.09626, section III-B).

    Separable convolution k4 s4, separable convolution k2 s2, 1 x 1 convolution, each with 256
    channels and a ReLU. Kernels and weight shapes are the published ones at every input size; the
    strides depend on the map (`published_strides`), because on maps smaller than 14 x 14 the
    published ones would leave a single patch and nothing to attend over.
    """

    def __init__(self, inputs: int, side: int, width: int = 256) -> None:
        super().__init__()
        first, second = published_strides(side)
        self.layers = nn.ModuleList(
            [
                SeparableConv2d(inputs, width, 4, first),
                SeparableConv2d(width, width, 2, second),
                nn.Conv2d(width, width, 1),
            ]
        )
        self.dropout = nn.Dropout2d(0.0)  # Keras' SpatialDropout2D: for fine-tuning only

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map features [n, C, side, side] to patches [n, 4 or more, width]."""
        for layer in self.layers:
            features = F.relu(layer(features))
        return rearrange(self.dropout(features), "n c h w -> n (h w) c")  # type: ignore[no-any-return]


class PatchEmbedding(nn.Module):
    """Reduce the channels, split the map into square patches, and add their positions.

    Patches have the smallest side that leaves at most 8 x 8 of them: one place of the map up to
    128 px at stride 16, 2 x 2 places (7 x 7 patches) at 224 px.
    """

    def __init__(self, inputs: int, side: int, width: int) -> None:
        super().__init__()
        self.patch = -(-side // _LARGEST_GRID)
        grid = -(-side // self.patch)
        self.pad = grid * self.patch - side
        self.reduce = nn.Sequential(
            nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.project = nn.Linear(self.patch**2 * width, width)
        self.position = nn.Parameter(torch.empty(1, grid**2, width))
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map features [n, C, side, side] to tokens [n, grid * grid, width]."""
        reduced = F.pad(self.reduce(features), (0, self.pad, 0, self.pad))
        p = self.patch
        patches = rearrange(reduced, "n c (h p) (w q) -> n (h w) (p q c)", p=p, q=p)
        return self.project(patches) + self.position  # type: ignore[no-any-return]
