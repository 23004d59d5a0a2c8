"""Truncated MobileNets, and the only place that fills them with pretrained weights."""

from collections import OrderedDict
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from pattlite_dist.errors import UserError


def same_padding(x: torch.Tensor, kernel: int, stride: int) -> torch.Tensor:
    """Pad like TensorFlow's SAME: to ceil(side / stride) outputs, the odd pixel right and below."""
    pads: list[int] = []
    for side in (x.shape[-1], x.shape[-2]):
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding, which differs from PyTorch's at stride 2."""

    def forward(self, x: torch.Tensor, stride: int | None = None) -> torch.Tensor:
        """Map [n, C, H, W] to [n, C', ceil(H / stride), ceil(W / stride)].

        Args:
            x: the map.
            stride: instead of the convolution's own.
        """
        stride, kernel = stride or self.stride[0], self.kernel_size[0]
        if stride == 1 and kernel % 2:  # the same on both sides: no padded copy is needed
            return F.conv2d(x, self.weight, self.bias, padding=kernel // 2, groups=self.groups)
        padded = same_padding(x, kernel, stride)
        return F.conv2d(padded, self.weight, self.bias, stride, groups=self.groups)


def _keras_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class _SeparableBlock(nn.Module):
    """Keras' conv_dw_i and conv_pw_i; the last block of a truncated network has no pointwise."""

    def __init__(self, inputs: int, outputs: int | None, stride: int) -> None:
        super().__init__()
        self.dw = SameConv2d(inputs, inputs, 3, stride, groups=inputs, bias=False)
        self.dw_bn = _keras_norm(inputs)
        if outputs is not None:
            self.pw = nn.Conv2d(inputs, outputs, 1, bias=False)
            self.pw_bn = _keras_norm(outputs)
        self.pointwise = outputs is not None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu6(self.dw_bn(self.dw(x)))
        return F.relu6(self.pw_bn(self.pw(x))) if self.pointwise else x


class MobileNetV1(nn.Module):
    """MobileNetV1 1.0 (Howard et al., arXiv:1704.04861) as in Keras, cut after conv_dw_9_relu.

    This is where the reference code of PAtt-Lite cuts (`layers[-29]`): 512 channels at stride 16.

    Args:
        width_mult: factor of the channels; as Keras does with its `alpha`, the products are cut off
            to whole numbers.
    """

    mean: ClassVar = (0.5, 0.5, 0.5)
    std: ClassVar = (0.5, 0.5, 0.5)

    def __init__(self, width_mult: float = 1.0) -> None:
        super().__init__()
        published = (32, 64, 128, 128, 256, 256, 512, 512, 512)
        widths = [max(int(width * width_mult), 1) for width in published]
        stem = SameConv2d(3, widths[0], 3, 2, bias=False)
        self.stem = nn.Sequential(OrderedDict(conv=stem, bn=_keras_norm(widths[0])))
        strides = (1, 2, 1, 2, 1, 2, 1, 1, 1)
        self.blocks = nn.Sequential(*map(_SeparableBlock, widths, [*widths[1:], None], strides))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [n, 3, S, S] to [n, 512 * width_mult, ceil(S / 16), ceil(S / 16)]."""
        return self.blocks(F.relu6(self.stem(x)))  # type: ignore[no-any-return]


class MobileNetV2(nn.Module):
    """torchvision's MobileNetV2 (Sandler et al., arXiv:1801.04381), `features[:cut]`.

    Args:
        cut: blocks kept. 14: 96 channels at stride 16, 0.54 M parameters. 19: up to and including
            the last convolution, 1,280 channels at stride 32.
        width_mult: factor of the channels, rounded to multiples of 8 by torchvision, which never
            has fewer than 1,280 at the end.
    """

    mean: ClassVar = (0.485, 0.456, 0.406)
    std: ClassVar = (0.229, 0.224, 0.225)

    def __init__(self, cut: int, width_mult: float = 1.0) -> None:
        super().__init__()
        from torchvision.models import mobilenet_v2

        self.features = mobilenet_v2(weights=None, width_mult=width_mult).features[:cut]
        for module in self.features.modules():
            if isinstance(module, nn.ReLU6):
                module.inplace = False  # in place, its input would be copied for the backward pass

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [n, 3, S, S] to the feature map at the cut."""
        return self.features(x)  # type: ignore[no-any-return]


def blocks(backbone: MobileNetV1 | MobileNetV2) -> list[nn.Module]:
    """The backbone's blocks from input to output; V1's stem counts as one."""
    if isinstance(backbone, MobileNetV1):
        return [backbone.stem, *backbone.blocks]
    return list(backbone.features)


def freeze(backbone: MobileNetV1 | MobileNetV2, number: int) -> None:
    """Train none of its first blocks' parameters; their BatchNorm is the caller's to stop.

    Nothing before them requires a gradient, so that autograd does not record what they compute, and
    the backward pass ends behind them.
    """
    for block in blocks(backbone)[:number]:
        block.requires_grad_(False)


def probe(backbone: nn.Module, image_size: int) -> tuple[int, int]:
    """Channels and side of the feature map for images of this size."""
    training = backbone.training
    with torch.no_grad():
        features = backbone.eval()(torch.zeros(1, 3, image_size, image_size))
    backbone.train(training)
    return features.shape[1], features.shape[2]


def fill(backbone: nn.Module, state: dict[str, torch.Tensor], weights: str) -> None:
    """Load pretrained weights: every parameter of the backbone, or raise.

    Args:
        backbone: a `MobileNetV1` or `MobileNetV2`.
        state: its weights by their names; those beyond the cut are ignored. BatchNorm's counters,
            which other libraries do not have, may be missing.
        weights: where they are from, for messages.

    Raises:
        UserError: a weight is missing, has another shape, or is not finite.
    """
    counters = {k: v for k, v in backbone.state_dict().items() if k.endswith("num_batches_tracked")}
    state = {**counters, **state}
    for key, wanted in backbone.state_dict().items():
        if key not in state:
            raise UserError(
                f"{weights} has no {key}, so it does not match this {type(backbone).__name__}; "
                "give the matching file, or leave model.weights out"
            )
        if state[key].shape != wanted.shape:
            raise UserError(
                f"{weights}: {key} has shape {list(state[key].shape)} where "
                f"{list(wanted.shape)} is needed; give the matching file"
            )
        if state[key].is_floating_point() and not bool(state[key].isfinite().all()):
            raise UserError(f"{weights}: {key} holds NaN or infinity; get the file again")
    backbone.load_state_dict({key: state[key] for key in backbone.state_dict()})


def state_of(content: Any, path: Path) -> dict[str, torch.Tensor]:
    """The weights by their names in what a file contains.

    Raises:
        UserError: it is not a state dict.
    """
    tensors = isinstance(content, dict) and content.values()
    if not tensors or not all(isinstance(value, torch.Tensor) for value in tensors):
        raise UserError(
            f"{path} holds no state dict and is not a checkpoint of this package; give a state "
            "dict saved with torch.save, or a checkpoint"
        )
    found: dict[str, torch.Tensor] = content
    return found


def pretrained(backbone: nn.Module) -> dict[str, torch.Tensor]:
    """The weights that torchvision has for a backbone, downloaded.

    Raises:
        UserError: it has none, or they cannot be downloaded.
    """
    if not isinstance(backbone, MobileNetV2):
        raise UserError(
            "torchvision has no weights for MobileNetV1; give model.weights a local file "
            "(docs/weights.md says how to make it)"
        )
    from torchvision.models import MobileNet_V2_Weights

    try:
        return dict(MobileNet_V2_Weights.IMAGENET1K_V1.get_state_dict(progress=False))
    except OSError as error:
        raise UserError(
            f"cannot download torchvision's MobileNetV2 weights ({error}); "
            "give model.weights a local file"
        ) from error
