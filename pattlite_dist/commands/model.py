"""`pattlite model`: the size and cost of a network and its variants."""

from typing import TYPE_CHECKING, Any

from pattlite_dist.commands.options import config_options, given_config
from pattlite_dist.console import print_rows
from pattlite_dist.runtime.imports import quick_imports

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from pattlite_dist.model.settings import ModelConfig

IMAGE_SIZES = (48, 96, 224)


def add_options(parser: "ArgumentParser") -> None:
    """Options of `model`."""
    config_options(parser)
    parser.add_argument(
        "--summary", action="store_true", help="also show the configured network layer by layer"
    )


def work(options: Any) -> int:
    """Print parameters and multiply-adds of each variant's stages."""
    config = given_config(options)
    from pattlite_dist.shards.sources.base import EMOTIONS

    image_size, classes = config.data.image_size, len(EMOTIONS)
    if options.summary:
        print_rows(layer_rows(config.model, image_size, classes))
    print_rows(variant_rows(config.model, image_size, classes))
    print(
        f"{config.model.name}, {classes} classes; parameters for images of {image_size} px "
        "(`all` includes BatchNorm's statistics); multiply-adds per image"
    )
    return 0


def variant_rows(config: "ModelConfig", image_size: int, classes: int) -> list[list[str]]:
    """The table of variants: at 48, 96 and 224 px, and at the configuration's size."""
    with quick_imports():
        from pattlite_dist.model.count import count_stages, variants

    sides = sorted({*IMAGE_SIZES, image_size})
    rows = [["attention", "stage", "all", "trainable", *(f"MACs at {side} px" for side in sides)]]
    for name, variant in variants(config).items():
        for stage in count_stages(variant, sides, image_size, classes):
            numbers = (stage.parameters, stage.trainable, *stage.macs)
            rows.append([name, stage.name, *(f"{number:,}" for number in numbers)])
    return rows


def layer_rows(config: "ModelConfig", image_size: int, classes: int) -> list[list[str]]:
    """The table of layers in the configured network."""
    from pattlite_dist.model.count import count_layers

    rows = [["layer", "kind", "output", "all", "trainable", f"MACs at {image_size} px"]]
    for layer in count_layers(config, image_size, classes):
        numbers = (layer.size.parameters, layer.size.trainable, *layer.size.macs)
        shape = " x ".join(str(side) for side in layer.shape)
        rows.append([layer.size.name, layer.kind, shape, *(f"{number:,}" for number in numbers)])
    return rows
