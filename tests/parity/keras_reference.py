"""Run the reference architecture in Keras and store the output of each stage.

    python3 -m venv /tmp/keras
    /tmp/keras/bin/pip install tensorflow-cpu tf_keras pillow
    /tmp/keras/bin/python tests/parity/keras_reference.py

writes `reference.npz` next to this file, which `test_parity.py` compares our network with. The
architecture is that of the reference code of PAtt-Lite (JLREx/PAtt-Lite, the notebook), rebuilt
with the same layers in Keras 2 (`tf_keras`), which that code used: the attention of Keras 3 does
not accept a [batch, 32]. Dropout and augmentation, which are inactive in prediction, are omitted.

`--backbone imagenet` uses Keras' own weights (a download) instead of the random ones, and
`--backbone FILE.npz` arrays by our names without `backbone.`; they are then stored as well:

    /tmp/keras/bin/python tests/parity/keras_reference.py --backbone imagenet --out /tmp/real.npz
    PATTLITE_PARITY=/tmp/real.npz pytest tests/parity
"""

import argparse
from pathlib import Path
from typing import Any

import material
import numpy as np
import tensorflow as tf
import tf_keras as keras

layers = keras.layers
NORM = ("weight", "bias", "running_mean", "running_var")  # in Keras' order


def our_backbone_names() -> dict[str, list[str]]:
    """Our names for the weights of each Keras layer, in Keras' order."""
    names = {"conv1": ["stem.conv.weight"], "conv1_bn": [f"stem.bn.{part}" for part in NORM]}
    for i in range(9):
        for kind in ("dw", "pw"):
            names[f"conv_{kind}_{i + 1}"] = [f"blocks.{i}.{kind}.weight"]
            names[f"conv_{kind}_{i + 1}_bn"] = [f"blocks.{i}.{kind}_bn.{part}" for part in NORM]
    return names


def to_keras(name: str, value: material.Array) -> material.Array:
    """Convert [outputs, inputs, height, width] to Keras' order of axes."""
    if value.ndim == 2:
        return value.T
    if value.ndim != 4:
        return value
    depthwise = ".dw." in name or "depthwise" in name
    return value.transpose(2, 3, 0, 1) if depthwise else value.transpose(2, 3, 1, 0)


def from_keras(name: str, value: material.Array) -> material.Array:
    """Convert Keras' order of axes to [outputs, inputs, height, width]."""
    if value.ndim != 4:
        return value
    return value.transpose(2, 3, 0, 1) if ".dw." in name else value.transpose(3, 2, 0, 1)


def build(weights: dict[str, material.Array]) -> tuple[Any, Any, dict[str, Any]]:
    """The backbone, the patch extraction, and the classifier's layers, with these weights."""
    mobilenet = keras.applications.mobilenet.MobileNet(
        input_shape=(material.SIDE, material.SIDE, 3), include_top=False, weights=None
    )
    backbone = keras.Model(mobilenet.input, mobilenet.layers[-29].output)
    assert backbone.layers[-1].name == "conv_dw_9_relu"
    for layer, names in our_backbone_names().items():
        if any(known.name == layer for known in backbone.layers):
            put(backbone.get_layer(layer), [f"backbone.{name}" for name in names], weights)

    patches = keras.Sequential([
        layers.SeparableConv2D(256, 4, strides=4, padding="same", activation="relu"),
        layers.SeparableConv2D(256, 2, strides=2, padding="valid", activation="relu"),
        layers.Conv2D(256, 1, strides=1, padding="valid", activation="relu"),
    ])  # fmt: skip
    patches.build((None, *backbone.output_shape[1:]))
    parts = ("depthwise.weight", "pointwise.weight", "pointwise.bias")
    for i in range(2):
        put(patches.layers[i], [f"patches.layers.{i}.{part}" for part in parts], weights)
    put(patches.layers[2], [f"patches.layers.2.{part}" for part in ("weight", "bias")], weights)

    head = {
        "dense": layers.Dense(32, activation="relu"),
        "norm": layers.BatchNormalization(),
        "attention": layers.Attention(use_scale=True),
        "head": layers.Dense(material.CLASSES, activation=None),
    }
    for name, width in {"dense": 256, "norm": 32, "head": 32}.items():
        head[name].build((None, width))
    head["attention"].build([(None, 32), (None, 32)])
    for name in ("dense", "head"):
        put(head[name], [f"classifier.{name}.{part}" for part in ("weight", "bias")], weights)
    put(head["norm"], [f"classifier.norm.{part}" for part in NORM], weights)
    put(head["attention"], ["classifier.scale"], weights)
    return backbone, patches, head


def put(layer: Any, names: list[str], weights: dict[str, material.Array]) -> None:
    """Set a layer's weights from ours."""
    layer.set_weights([to_keras(name, weights[name]) for name in names])


def run(weights: dict[str, material.Array]) -> dict[str, material.Array]:
    """The output of each stage for the photographs: maps as [4, C, H, W], by Keras' names."""
    backbone, patches, head = build(weights)
    pixels = tf.cast(material.photographs(), keras.backend.floatx())
    images = keras.applications.mobilenet.preprocess_input(
        layers.Resizing(material.SIDE, material.SIDE)(pixels)
    )
    stages = {"input": images}
    wanted = [layer.name for layer in backbone.layers if layer.name.endswith(("_bn", "_relu"))]
    outputs = [backbone.get_layer(name).output for name in wanted]
    stages |= zip(wanted, keras.Model(backbone.input, outputs)(images, training=False), strict=True)
    x = stages["conv_dw_9_relu"]
    for i, layer in enumerate(patches.layers):
        x = stages[f"patch_extraction_{i + 1}"] = layer(x)
    features = x

    for variant in material.VARIANTS:
        if variant == "patches":  # the corrected one: a sample's own four patches
            x = layers.Reshape((-1, 256))(features)
        else:
            x = stages["gap"] = layers.GlobalAveragePooling2D()(features)
        x = stages[f"{variant}.dense"] = head["dense"](x)
        x = stages[f"{variant}.norm"] = normalise(head["norm"], x, training=False)
        if variant != "none":  # `batch` is the published one: [4, 32] goes in
            x = head["attention"]([x, x])
        if variant == "patches":
            x = tf.reduce_mean(x, axis=1)
        stages[f"{variant}.attention"] = x
        x = stages[f"{variant}.logits"] = head["head"](x)
        stages[f"{variant}.probabilities"] = tf.nn.softmax(x)

    for variant in ("batch", "patches"):  # one training batch changes the statistics
        put(head["norm"], [f"classifier.norm.{part}" for part in NORM], weights)
        x = stages[f"{variant}.dense"]
        stages[f"{variant}.norm_in_training"] = normalise(head["norm"], x, training=True)
        for part, value in zip(("mean", "variance"), head["norm"].get_weights()[2:], strict=True):
            stages[f"{variant}.moving_{part}"] = value[None]
    return {name: _channels_first(np.asarray(value)) for name, value in stages.items()}


def normalise(norm: Any, x: Any, training: bool) -> Any:
    """BatchNorm of [n, 32], or of [n, p, 32] as of [n * p, 32]."""
    return tf.reshape(norm(tf.reshape(x, (-1, x.shape[-1])), training=training), x.shape)


def _channels_first(value: material.Array) -> material.Array:
    return value.transpose(0, 3, 1, 2) if value.ndim == 4 else value


def imagenet() -> dict[str, material.Array]:
    """Keras' own weights of the backbone, by our names."""
    mobilenet = keras.applications.mobilenet.MobileNet(
        input_shape=(material.SIDE, material.SIDE, 3), include_top=False, weights="imagenet"
    )
    wanted = material.shapes()
    return {
        name: from_keras(name, value)
        for layer, names in our_backbone_names().items()
        for name, value in zip(names, mobilenet.get_layer(layer).get_weights(), strict=True)
        if f"backbone.{name}" in wanted
    }


def main() -> None:
    """Write the reference, computed in double precision; print the error of single precision."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", help="imagenet, or an .npz; default: drawn weights")
    parser.add_argument("--out", type=Path, default=material.REFERENCE)
    options = parser.parse_args()
    given: dict[str, material.Array] = {}
    if options.backbone == "imagenet":
        given = imagenet()
    elif options.backbone:
        given = dict(np.load(options.backbone))
    weights = material.weights() | {f"backbone.{k}": v for k, v in given.items()}

    single = run(weights)
    keras.backend.set_floatx("float64")
    double = run(weights)
    for name, value in double.items():
        assert value.dtype == np.float64, name
        off = np.abs(value - single[name]).max()
        print(f"{name:28} {value.shape!s:20} std {value.std():7.4f}  float32 off by {off:.1e}")
    stored = {f"stage/{name}": material.digest(name, value) for name, value in double.items()}
    stored |= {f"weights/backbone.{name}": value for name, value in given.items()}
    np.savez_compressed(options.out, **stored)
    print(f"{options.out}: {len(double)} stages, {options.out.stat().st_size:,} bytes, "
          f"tensorflow {tf.__version__}, tf_keras {keras.__version__}")  # fmt: skip


if __name__ == "__main__":
    main()
