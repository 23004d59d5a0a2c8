"""What both sides of the parity check share: photographs, weights, and digests of stages.

Imports NumPy and Pillow only, so that the environment with TensorFlow needs nothing of ours. The
weights come from a generator seeded with each parameter's name, so anyone can reproduce them.
"""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]

HERE = Path(__file__).resolve().parent
REFERENCE = HERE / "reference.npz"
SIDE, CLASSES, SAMPLES = 224, 7, 64
VARIANTS = ("patches", "none", "batch")
_WIDTHS = (32, 64, 128, 128, 256, 256, 512, 512, 512, None)  # of MobileNetV1 up to conv_dw_9


def photographs() -> NDArray[np.uint8]:
    """Four images [4, 224, 224, 3]: a photograph, its dimmed mirror image, its middle enlarged, and
    smooth colours.

    The photograph is the official portrait of Rear Admiral Grace Hopper (US Navy, public domain),
    cropped from the one that comes with matplotlib.
    """
    whole = np.asarray(Image.open(HERE / "photograph.png").convert("RGB"))
    assert whole.shape == (SIDE, SIDE, 3)
    middle = whole[56:168, 56:168].repeat(2, 0).repeat(2, 1)
    steps = np.arange(SIDE)
    colours = np.stack(
        [
            steps[:, None] + 0 * steps,
            255 - steps + 0 * steps[:, None],
            (steps[:, None] + steps) // 2,
        ],
        axis=-1,
    )
    images = [whole, whole[:, ::-1] // 2, middle, colours]
    return np.stack(images).astype(np.uint8)


def shapes() -> dict[str, tuple[int, ...]]:
    """Shapes of all weights by our names; convolutions are [outputs, inputs, height, width]."""
    wanted: dict[str, tuple[int, ...]] = {"backbone.stem.conv.weight": (32, 3, 3, 3)}
    norms = {"backbone.stem.bn": 32, "classifier.norm": 32}
    for i, (inputs, outputs) in enumerate(itertools.pairwise(_WIDTHS)):
        assert inputs is not None
        wanted[f"backbone.blocks.{i}.dw.weight"] = (inputs, 1, 3, 3)
        norms[f"backbone.blocks.{i}.dw_bn"] = inputs
        if outputs is not None:
            wanted[f"backbone.blocks.{i}.pw.weight"] = (outputs, inputs, 1, 1)
            norms[f"backbone.blocks.{i}.pw_bn"] = outputs
    for i, (inputs, kernel) in enumerate([(512, 4), (256, 2)]):
        wanted[f"patches.layers.{i}.depthwise.weight"] = (inputs, 1, kernel, kernel)
        wanted[f"patches.layers.{i}.pointwise.weight"] = (256, inputs, 1, 1)
        wanted[f"patches.layers.{i}.pointwise.bias"] = (256,)
    wanted |= {
        "patches.layers.2.weight": (256, 256, 1, 1),
        "patches.layers.2.bias": (256,),
        "classifier.dense.weight": (32, 256),
        "classifier.dense.bias": (32,),
        "classifier.scale": (),
        "classifier.head.weight": (CLASSES, 32),
        "classifier.head.bias": (CLASSES,),
    }
    for name, channels in norms.items():
        for part in ("weight", "bias", "running_mean", "running_var"):
            wanted[f"{name}.{part}"] = (channels,)
    return wanted


def weights() -> dict[str, NDArray[np.float64]]:
    """All weights by our names, such that signals neither vanish nor grow from layer to layer."""
    return {name: _draw(name, shape) for name, shape in shapes().items()}


def _draw(name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    # Uniform numbers are the same on every machine; float32, so both precisions represent them.
    uniform = np.random.default_rng(list(name.encode())).random(shape)
    if name == "classifier.scale":
        drawn = 0.02 + 0.02 * uniform  # at 1, a token would attend only to itself
    elif name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
        drawn = 0.5 + uniform
    elif len(shape) == 1:
        drawn = uniform - 0.5
    else:
        drawn = (2 * uniform - 1) * math.sqrt(6 / math.prod(shape[1:]))
    return np.asarray(drawn, np.float32).astype(np.float64)


def digest(stage: str, value: Array) -> NDArray[np.float64]:
    """Summarise an activation [4, ...] in [4, 66] numbers or fewer.

    Evenly spaced values, their mean, and a sum of all with random signs, scaled to the size of one
    value: activations that differ in any value or place have different digests.
    """
    flat = value.reshape(len(value), -1).astype(np.float64)
    size = flat.shape[1]
    places = np.unique(np.linspace(0, size - 1, SAMPLES).astype(int))
    signs = np.random.default_rng(list(stage.encode())).integers(0, 2, size) * 2 - 1
    whole = np.stack([flat.mean(1), flat @ signs / math.sqrt(size)], axis=1)
    return np.concatenate([flat[:, places], whole], axis=1)
