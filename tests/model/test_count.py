import pytest
import torch

from pattlite_dist.model.build import network
from pattlite_dist.model.count import Size, count_layers, count_stages, variants
from pattlite_dist.model.settings import ModelConfig

SIDES = (48, 96, 224)
CONFIGS = {
    "patches": ModelConfig(name="pattlite"),
    "none": ModelConfig(name="pattlite", attention="none"),
    "batch": ModelConfig(name="pattlite", attention="batch"),
    "mobilenetv2-vit": ModelConfig(name="mobilenetv2-vit", width=32, heads=4),
    "mobilenetv2-vit-19": ModelConfig(name="mobilenetv2-vit", width=32, heads=4, cut=19),
}


def stages(name: str, *sides: int, image_size: int = 48) -> dict[str, Size]:
    return {part.name: part for part in count_stages(CONFIGS[name], sides, image_size, 7)}


def separable(inputs: int, outputs: int, kernel: int, places: int) -> int:
    return places * inputs * (kernel**2 + outputs)


def test_the_published_network_has_the_papers_parameters_and_kerass() -> None:
    """1.10 M in the paper; Keras' summary of the rebuilt notebook: 1,102,664 and 1,093,000."""
    total = stages("batch", 224, image_size=224)["total"]
    assert (total.parameters, total.trainable) == (1_102_664, 1_093_000)


@pytest.mark.parametrize("side", SIDES)
def test_a_backbones_multiply_adds_are_those_of_a_hand_count(side: int) -> None:
    widths = (32, 64, 128, 128, 256, 256, 512, 512, 512)
    halvings = (1, 2, 2, 3, 3, 4, 4, 4, 4)  # of the side, including the stem's
    expected = (side // 2) ** 2 * 27 * 32
    for i, inputs in enumerate(widths):
        places = (side // 2 ** halvings[i]) ** 2
        expected += places * inputs * 9
        expected += places * inputs * widths[i + 1] if i < 8 else 0
    assert stages("patches", side)["backbone"].macs == (expected,)


@pytest.mark.parametrize(("side", "first", "second"), [(48, 4, 4), (96, 4, 4), (224, 16, 4)])
def test_patch_extractions_multiply_adds_are_those_of_a_hand_count(
    side: int, first: int, second: int
) -> None:
    expected = separable(512, 256, 4, first) + separable(256, 256, 2, second) + second * 256 * 256
    assert stages("patches", side)["patches"].macs == (expected,)


def test_the_classifiers_multiply_adds_are_those_of_a_hand_count_attention_included() -> None:
    linear = 256 * 32
    head = 32 * 7
    counts = {name: stages(name, 48)["classifier"].macs[0] for name in ("patches", "none", "batch")}
    assert counts["patches"] == 4 * linear + 2 * 4 * 4 * 32 + head
    assert counts["none"] == linear + head
    assert counts["batch"] == linear + 2 * 8 * 32 + head  # each image of 8 attends to 8


@pytest.mark.parametrize("side", SIDES)
def test_the_seeds_multiply_adds_are_those_of_a_hand_count_attention_included(side: int) -> None:
    places = (side // 16) ** 2
    patch = 2 if side == 224 else 1
    tokens, width = places // patch**2, 32
    counts = stages("mobilenetv2-vit", side)
    assert counts["patches"].macs == (places * 96 * width + tokens * patch**2 * width * width,)
    linear = 3 + 1 + 2 + 2  # qkv, out, and the two layers of an MLP twice as wide
    assert counts["block"].macs == (tokens * width**2 * linear + 2 * tokens**2 * width,)
    assert counts["head"].macs == (width * 7,)


def test_torchvisions_whole_mobilenet_takes_300_million() -> None:
    assert stages("mobilenetv2-vit-19", 224)["backbone"].macs[0] == pytest.approx(300e6, rel=0.01)


@pytest.mark.parametrize("name", CONFIGS)
def test_stages_and_layers_add_up_to_the_network(name: str) -> None:
    *parts, total = count_stages(CONFIGS[name], (48,), 48, 7)
    layers = [layer.size for layer in count_layers(CONFIGS[name], 48, 7)]
    for sizes in (parts, layers):
        assert sum(size.parameters for size in sizes) == total.parameters
        assert sum(size.trainable for size in sizes) == total.trainable
        assert sum(size.macs[0] for size in sizes) == total.macs[0]
    assert min(size.parameters + size.macs[0] for size in layers) > 0
    model = network(CONFIGS[name], 48, 7)
    state = model.state_dict().values()
    assert total.parameters == sum(v.numel() for v in state if v.is_floating_point())
    assert total.trainable == sum(p.numel() for p in model.parameters())


def test_frozen_blocks_are_counted_but_not_as_trainable() -> None:
    def sizes(freeze: int) -> dict[str, Size]:
        config = CONFIGS["patches"].model_copy(update={"freeze": freeze})
        return {part.name: part for part in count_stages(config, (), 48, 7)}

    free, frozen, whole = sizes(0), sizes(1), sizes(10)
    for part in ("backbone", "total"):  # without the stem's convolution and BatchNorm
        assert free[part].trainable - frozen[part].trainable == 3 * 32 * 9 + 2 * 32
        assert free[part].parameters == frozen[part].parameters == whole[part].parameters
    assert whole["backbone"].trainable == 0
    assert whole["patches"] == free["patches"]


def test_layers_come_as_an_image_meets_them() -> None:
    layers = count_layers(CONFIGS["patches"], 48, 7)
    assert [layer.size.name for layer in layers][:2] == ["backbone.stem.conv", "backbone.stem.bn"]
    assert layers[0].shape == (32, 24, 24)
    by_name = {layer.size.name: layer for layer in layers}
    assert by_name["classifier"].size.macs == (2 * 4 * 4 * 32,)  # its attention
    assert "patches" not in by_name


def test_counting_draws_no_random_numbers() -> None:
    before = torch.get_rng_state()
    stages("patches", 48)
    assert torch.equal(torch.get_rng_state(), before)


def test_pattlite_has_three_variants_and_the_seed_one() -> None:
    assert [config.attention for config in variants(CONFIGS["batch"]).values()] == [
        "patches", "none", "batch",
    ]  # fmt: skip
    assert variants(CONFIGS["mobilenetv2-vit"]) == {"patches": CONFIGS["mobilenetv2-vit"]}
