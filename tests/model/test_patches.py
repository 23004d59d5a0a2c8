import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pattlite_dist.model.patches import (
    PatchEmbedding,
    PatchExtraction,
    SeparableConv2d,
    published_strides,
    resampling,
)


def patches_a_side(side: int) -> int:
    first, second = published_strides(side)
    return math.ceil(math.ceil(side / first) / second)


def test_the_published_strides_at_224_pixels() -> None:
    assert published_strides(14) == (4, 2)


@pytest.mark.parametrize(
    ("side", "strides"), [(2, (1, 1)), (3, (2, 1)), (4, (3, 1)), (6, (4, 1)), (7, (4, 1))]
)
def test_smaller_maps_get_smaller_strides(side: int, strides: tuple[int, int]) -> None:
    assert published_strides(side) == strides


@pytest.mark.parametrize("side", range(2, 15))
def test_there_are_two_by_two_patches_up_to_a_map_of_14(side: int) -> None:
    assert patches_a_side(side) == 2
    first, second = published_strides(side)
    assert 1 <= first <= 4
    assert 1 <= second <= 2


def test_a_single_place_is_a_single_patch() -> None:
    assert published_strides(1) == (1, 1)


def test_a_larger_map_never_gets_fewer_patches_nor_a_smaller_stride() -> None:
    for a, b in itertools.pairwise(range(1, 60)):
        assert patches_a_side(a) <= patches_a_side(b)
        assert published_strides(a)[0] <= published_strides(b)[0]


def test_one_extraction_makes_patches_from_every_map() -> None:
    extraction = PatchExtraction(8, width=6)
    for side in range(2, 15):
        assert extraction(torch.randn(3, 8, side, side)).shape == (3, 4, 6)


def test_extraction_has_the_published_kernels() -> None:
    shapes = {name: tuple(p.shape) for name, p in PatchExtraction(512).named_parameters()}
    assert shapes["layers.0.depthwise.weight"] == (512, 1, 4, 4)
    assert shapes["layers.1.depthwise.weight"] == (256, 1, 2, 2)
    assert shapes["layers.2.weight"] == (256, 256, 1, 1)
    assert "layers.0.depthwise.bias" not in shapes
    assert shapes["layers.0.pointwise.bias"] == (256,)


def test_a_separable_convolution_is_depthwise_then_pointwise() -> None:
    torch.manual_seed(0)
    layer, x = SeparableConv2d(3, 5, kernel=2), torch.randn(2, 3, 6, 6)
    windows = x.reshape(2, 3, 3, 2, 3, 2)
    depth = torch.einsum("nchiwj,cij->nchw", windows, layer.depthwise.weight[:, 0])
    expected = torch.einsum("nchw,oc->nohw", depth, layer.pointwise.weight[:, :, 0, 0])
    expected = expected + layer.pointwise.bias.view(1, -1, 1, 1)
    torch.testing.assert_close(layer(x, 2), expected, atol=1e-5, rtol=1e-5)


def test_patches_are_in_reading_order() -> None:
    """With all mixing switched off, a patch is the place that it came from."""
    extraction = PatchExtraction(1, width=1)
    with torch.no_grad():
        for layer in extraction.layers:
            for p in layer.parameters():
                p.zero_()
            (layer.pointwise if isinstance(layer, SeparableConv2d) else layer).weight.fill_(1)
        extraction.layers[0].depthwise.weight[0, 0, 1, 1] = 1  # k4 s1 pads 1 before
        extraction.layers[1].depthwise.weight[0, 0, 0, 0] = 1
    out = extraction(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]))
    assert out[0, :, 0].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("side", "patch", "grid"), [(2, 1, 2), (6, 1, 6), (8, 1, 8), (9, 2, 5), (14, 2, 7), (28, 4, 7)]
)
def test_an_embedding_has_at_most_8_by_8_patches_of_the_smallest_size(
    side: int, patch: int, grid: int
) -> None:
    embedding = PatchEmbedding(4, side, 10)
    assert embedding.patch == patch
    assert embedding.project.in_features == patch**2 * 10
    assert embedding(torch.randn(2, 4, side, side)).shape == (2, grid**2, 10)


@pytest.mark.parametrize("side", [4, 9, 14])
def test_an_embedding_equals_a_loop_over_its_patches(side: int) -> None:
    torch.manual_seed(1)
    embedding, x = PatchEmbedding(4, side, 6).eval(), torch.randn(3, 4, side, side)
    norm = embedding.reduce[1]
    assert isinstance(norm, nn.BatchNorm2d)
    nn.init.uniform_(norm.bias)
    reduced = embedding.reduce(x)
    p, grid = embedding.patch, -(-side // embedding.patch)
    padded = F.pad(reduced, (0, grid * p - side, 0, grid * p - side))
    tokens = embedding(x)
    for n, row, column in itertools.product(range(3), range(grid), range(grid)):
        window = padded[n, :, row * p : (row + 1) * p, column * p : (column + 1) * p]
        number = row * grid + column
        expected = embedding.project(window.permute(1, 2, 0).flatten())
        expected = expected + embedding.position[0, number]
        torch.testing.assert_close(tokens[n, number], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("side", "other"), [(6, 3), (4, 6), (14, 7), (9, 6), (6, 8)])
def test_a_map_of_another_side_gets_patches_of_the_same_size_at_resampled_positions(
    side: int, other: int
) -> None:
    torch.manual_seed(1)
    embedding, x = PatchEmbedding(4, side, 6).eval(), torch.randn(3, 4, other, other)
    grid = -(-other // embedding.patch)
    at_home = embedding(torch.randn(3, 4, side, side))
    assert at_home.shape[1] == embedding.grid**2
    with torch.no_grad():
        # A position that rises evenly from left to right does so on every grid, but at its ends.
        rising = (torch.arange(embedding.grid) + 0.5) / embedding.grid
        embedding.position.copy_(rising.repeat(embedding.grid)[None, :, None])
        tokens = embedding(x)
        embedding.position.zero_()
        added = (tokens - embedding(x)).view(3, grid, grid, 6)
    expected = ((torch.arange(grid) + 0.5) / grid).view(1, 1, grid, 1).expand_as(added)
    torch.testing.assert_close(added, expected, atol=0.08, rtol=0)
    embedding(x).sum().backward()
    assert embedding.position.grad is not None
    torch.testing.assert_close(embedding.position.grad.sum(), torch.tensor(3.0 * grid**2 * 6))


@pytest.mark.parametrize(("old", "new"), [(6, 3), (3, 6), (7, 4), (8, 5)])
def test_positions_are_resampled_as_interpolate_would(old: int, new: int) -> None:
    position = torch.randn(1, 5, old, old)
    weights = resampling(old, new, torch.device("cpu"))
    got = torch.einsum("ih,jw,nchw->ncij", weights, weights, position)
    expected = F.interpolate(position, (new, new), mode="bicubic", antialias=True)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_positions_start_small_and_differ() -> None:
    position = PatchEmbedding(4, 8, 64).position
    assert 0.01 < position.std() < 0.03
    assert len(torch.unique(position)) > 4000
