"""How large a network is: parameters and multiply-adds, by stage and by layer.

Networks are built on PyTorch's meta device, where nothing is computed, only counted.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pattlite_dist.model.backbones import freeze
from pattlite_dist.model.build import network
from pattlite_dist.model.settings import ModelConfig

BATCH = 8  # the published one; the cost per image of `attention: batch` depends on it


class Size(NamedTuple):
    """The size of a part of a network.

    Attributes:
        name: a child of the network, or `total`.
        parameters: all numbers that a checkpoint needs, including BatchNorm's statistics.
        trainable: those that gradients may change; not the frozen blocks'.
        macs: multiply-adds per image in convolutions and matrix products, including attention's,
            for each requested image size.
    """

    name: str
    parameters: int
    trainable: int
    macs: tuple[int, ...]


class Layer(NamedTuple):
    """A layer, the shape of its output for one image, and its size without its parts."""

    kind: str
    shape: tuple[int, ...]
    size: Size


def variants(config: ModelConfig) -> dict[str, ModelConfig]:
    """The configuration with each kind of attention that its network supports, by name."""
    if config.name != "pattlite":
        return {config.attention: config}
    return {
        name: config.model_copy(update={"attention": name}) for name in ("patches", "none", "batch")
    }


def count_stages(
    config: ModelConfig, image_sizes: Sequence[int], image_size: int, classes: int
) -> list[Size]:
    """Sizes of the network's stages in order, and their total.

    Args:
        config: which network.
        image_sizes: sides of images, pixels, for which multiply-adds are counted.
        image_size: the side for which parameters are counted; only mobilenetv2-vit's differ.
        classes: logits.
    """
    runs = [_run(config, side, classes)[1] for side in image_sizes]
    parts = dict(_meta(config, image_size, classes).named_children())
    stages = [
        Size(name, *_parameters(part.modules()), tuple(macs[name] for macs in runs))
        for name, part in parts.items()
        if not isinstance(part, nn.Dropout)
    ]
    total = Size(
        "total",
        sum(stage.parameters for stage in stages),
        sum(stage.trainable for stage in stages),
        tuple(macs[""] for macs in runs),
    )
    return [*stages, total]


def count_layers(config: ModelConfig, image_size: int, classes: int) -> list[Layer]:
    """Every layer that has weights or multiplies, in the order in which the layers finish."""
    ran, macs = _run(config, image_size, classes)
    own = Counter({name: macs[name] for name, _, _ in ran})
    for name in list(own)[:-1]:  # the last to finish is the network itself
        above = name.rpartition(".")[0]
        while above not in own:  # a ModuleList is never called
            above = above.rpartition(".")[0]
        own[above] -= macs[name]
    layers = []
    for name, module, shape in ran:
        size = Size(name, *_parameters([module]), (own[name],))
        if size.parameters or own[name]:
            layers.append(Layer(type(module).__name__, shape, size))
    return layers


def _meta(config: ModelConfig, image_size: int, classes: int) -> nn.Module:
    with torch.device("meta"):
        model = network(config, image_size, classes).eval()
    freeze(model.backbone, config.freeze)
    return model


def _run(
    config: ModelConfig, image_size: int, classes: int
) -> tuple[list[tuple[str, nn.Module, tuple[int, ...]]], Counter[str]]:
    """Modules as (name, module, output shape), and the multiply-adds of each per image.

    The name of the network itself is empty.
    """
    model = _meta(config, image_size, classes)
    ran: list[tuple[str, nn.Module, tuple[int, ...]]] = []

    def watch(name: str, module: nn.Module) -> None:
        def note(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
            ran.append((name, module, tuple(output.shape[1:])))

        module.register_forward_hook(note)

    for name, module in model.named_modules():
        watch(name, module)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(BATCH, 3, image_size, image_size, device="meta"))
    root, macs = type(model).__name__, Counter[str]()
    for name, flops in counter.get_flop_counts().items():
        if name.split(".")[0] == root:
            macs[name[len(root) + 1 :]] = sum(flops.values()) // (2 * BATCH)
    return ran, macs


def _parameters(modules: Iterable[nn.Module]) -> tuple[int, int]:
    """What the modules hold themselves, without their parts: all, trainable."""
    every = trainable = 0
    for module in modules:
        weights = list(module.parameters(recurse=False))
        trainable += sum(p.numel() for p in weights if p.requires_grad)
        # BatchNorm's counter of batches is the one buffer that the network does not compute with.
        held = [*weights, *(b for b in module.buffers(recurse=False) if b.is_floating_point())]
        every += sum(value.numel() for value in held)
    return every, trainable
