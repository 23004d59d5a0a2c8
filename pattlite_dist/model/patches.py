"""Patch extraction: from a feature map to the tokens that attention runs over."""

from functools import cache

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

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.depthwise = SameConv2d(inputs, inputs, kernel, groups=inputs, bias=False)
        self.pointwise = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: torch.Tensor, stride: int) -> torch.Tensor:
        """Map [n, C, H, W] to [n, outputs, ceil(H / stride), ceil(W / stride)]."""
        return self.pointwise(self.depthwise(x, stride))  # type: ignore[no-any-return]


class PatchExtraction(nn.Module):
    """PAtt-Lite's patch extraction (arXiv:2306.09626, section III-B).

    Separable convolution k4 s4, separable convolution k2 s2, 1 x 1 convolution, each with 256
    channels and a ReLU. Kernels and weight shapes are the published ones at every input size; the
    strides depend on the map at hand (`published_strides`), because on maps smaller than 14 x 14
    the published ones would leave a single patch and nothing to attend over.
    """

    def __init__(self, inputs: int, width: int = 256) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                SeparableConv2d(inputs, width, 4),
                SeparableConv2d(width, width, 2),
                nn.Conv2d(width, width, 1),
            ]
        )
        self.dropout = nn.Dropout2d(0.0)  # Keras' SpatialDropout2D: for fine-tuning only

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map features [n, C, side, side] to patches [n, 4 or more, width]."""
        strides = published_strides(features.shape[-1])
        for layer, stride in zip(self.layers, strides, strict=False):
            features = F.relu(layer(features, stride))
        features = F.relu(self.layers[-1](features))
        return rearrange(self.dropout(features), "n c h w -> n (h w) c")  # type: ignore[no-any-return]


class PatchEmbedding(nn.Module):
    """Reduce the channels, split the map into square patches, and add their positions.

    Patches have the smallest side that leaves at most 8 x 8 of them: one place of the map up to
    128 px at stride 16, 2 x 2 places (7 x 7 patches) at 224 px. A map of another side is split into
    patches of the same size, with the positions interpolated, as for ViT at another resolution
    (arXiv:2010.11929, section 3.2).

    Args:
        inputs: channels of the map.
        side: of the map for which there is a position to each patch.
        width: of a token.
    """

    def __init__(self, inputs: int, side: int, width: int) -> None:
        super().__init__()
        self.patch = -(-side // _LARGEST_GRID)
        self.grid = -(-side // self.patch)
        self.reduce = nn.Sequential(
            nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.project = nn.Linear(self.patch**2 * width, width)
        self.position = nn.Parameter(torch.empty(1, self.grid**2, width))
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map features [n, C, side, side] to tokens [n, grid * grid, width]."""
        p, side = self.patch, features.shape[-1]
        grid = -(-side // p)
        pad = grid * p - side
        reduced = F.pad(self.reduce(features), (0, pad, 0, pad))
        patches = rearrange(reduced, "n c (h p) (w q) -> n (h w) (p q c)", p=p, q=p)
        return self.project(patches) + self._positions(grid)  # type: ignore[no-any-return]

    def _positions(self, grid: int) -> torch.Tensor:
        if grid == self.grid:
            return self.position
        # By products with a matrix: on a GPU, the gradient of `interpolate` is not deterministic.
        weights = resampling(self.grid, grid, self.position.device)
        old = rearrange(self.position, "1 (h w) c -> h w c", h=self.grid)
        with torch.autocast(old.device.type, enabled=False):  # as exact as the ones not resampled
            new = torch.einsum("ih,jw,hwc->ijc", weights, weights, old)
        return rearrange(new, "h w c -> 1 (h w) c")


@cache
def resampling(old: int, new: int, device: torch.device) -> torch.Tensor:
    """How each of `new` places along a side is made of `old` ones, float32 [new, old]: bicubic."""
    each = torch.eye(old)[None, None]  # an image with one old place in each column
    mixed = F.interpolate(each, (new, old), mode="bicubic", antialias=True)
    return mixed[0, 0].to(device)
