import pickle
import re
import sys
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import mobilenet_v2

from pattlite_dist.errors import UserError
from pattlite_dist.files import load_tensors
from pattlite_dist.model.backbones import (
    MobileNetV1,
    MobileNetV2,
    SameConv2d,
    fill,
    pretrained,
    probe,
    same_padding,
    state_of,
)
from pattlite_dist.model.build import build_model
from pattlite_dist.model.settings import ModelConfig
from tests.conftest import ROOT

# Sums of 3 neighbours at stride 2 over 1, 2, 3, ... as TensorFlow's SAME computes them: for an
# even side all padding comes after (the windows start on the first pixel), for an odd one it is
# the same before and after.
SUMS = {
    1: [1],
    2: [1 + 2],
    3: [1 + 2, 2 + 3],
    4: [1 + 2 + 3, 3 + 4],
    5: [1 + 2, 2 + 3 + 4, 4 + 5],
    6: [1 + 2 + 3, 3 + 4 + 5, 5 + 6],
    7: [1 + 2, 2 + 3 + 4, 4 + 5 + 6, 6 + 7],
}


@pytest.mark.parametrize("side", SUMS)
def test_same_padding_at_stride_2_is_tensorflows(side: int) -> None:
    convolution = SameConv2d(1, 1, 3, stride=2, bias=False)
    nn.init.ones_(convolution.weight)
    ramp = torch.arange(1.0, side + 1)
    sums = torch.tensor(SUMS[side], dtype=torch.float32)
    # A product of ramps sums over both axes at once, so both are checked.
    out = convolution((ramp[:, None] * ramp)[None, None])
    assert torch.equal(out[0, 0], sums[:, None] * sums)


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "before", "after"),
    [
        (14, 4, 4, 1, 1),  # the published patch extraction: 14 -> 4
        (4, 2, 2, 0, 0),
        (6, 4, 4, 1, 1),
        (3, 4, 2, 1, 2),
        (2, 2, 1, 0, 1),
        (8, 3, 1, 1, 1),
        (5, 1, 2, 0, 0),
    ],
)
def test_same_padding_puts_the_odd_pixel_behind(
    side: int, kernel: int, stride: int, before: int, after: int
) -> None:
    padded = same_padding(torch.ones(1, 1, side, side), kernel, stride)
    row = torch.tensor([0.0] * before + [1.0] * side + [0.0] * after)
    assert torch.equal(padded[0, 0], row[:, None] * row)


def test_the_two_sides_are_padded_each_by_its_own_length() -> None:
    assert same_padding(torch.ones(1, 1, 5, 8), 3, 2).shape == (1, 1, 7, 9)


def test_v1_has_as_many_parameters_as_keras_up_to_its_ninth_block() -> None:
    assert sum(p.numel() for p in MobileNetV1().parameters()) == 812_352


def test_v2_keeps_half_a_million_parameters_at_cut_14() -> None:
    assert sum(p.numel() for p in MobileNetV2(14).parameters()) == 542_528


@pytest.mark.parametrize(
    ("width_mult", "parameters", "channels"),
    # As keras.applications.MobileNet(alpha=...) has up to conv_dw_9_bn, statistics left out.
    [(0.75, 462_960, 384), (0.5, 211_104, 256), (0.25, 56_784, 128)],
)
def test_a_narrower_v1_is_kerass_of_that_alpha(
    width_mult: float, parameters: int, channels: int
) -> None:
    backbone = MobileNetV1(width_mult)
    assert sum(p.numel() for p in backbone.parameters()) == parameters
    assert probe(backbone, 64) == (channels, 4)


@pytest.mark.parametrize("width_mult", [0.5, 0.75, 1.4])
def test_v2_of_another_width_is_torchvisions(width_mult: float) -> None:
    theirs = mobilenet_v2(weights=None, width_mult=width_mult).features[:14].state_dict()
    ours = MobileNetV2(14, width_mult).features.state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


@pytest.mark.parametrize("width_mult", [0.01, 0.3, 2.0])
@pytest.mark.parametrize("name", ["pattlite", "mobilenetv2-vit"])
def test_networks_of_any_width_train(name: str, width_mult: float) -> None:
    config = ModelConfig.model_validate({"name": name, "width_mult": width_mult})
    net = build_model(config, 48, 7)
    net(torch.randn(2, 3, 48, 48)).sum().backward()
    assert all(p.grad is not None for p in net.backbone.parameters())


@pytest.mark.parametrize(
    ("cut", "size", "channels", "side"),
    [
        (None, 224, 512, 14),
        (None, 96, 512, 6),
        (None, 64, 512, 4),
        (None, 48, 512, 3),
        (None, 50, 512, 4),
        (14, 224, 96, 14),
        (14, 48, 96, 3),
        (19, 224, 1280, 7),
        (19, 48, 1280, 2),
        (7, 64, 32, 8),
    ],
)
def test_feature_maps_have_the_published_shape(
    cut: int | None, size: int, channels: int, side: int
) -> None:
    backbone = MobileNetV1() if cut is None else MobileNetV2(cut)
    assert probe(backbone, size) == (channels, side)
    with torch.no_grad():
        features = backbone.eval()(torch.zeros(2, 3, size, size))
    assert features.shape == (2, channels, side, side)


@pytest.mark.parametrize("training", [True, False])
def test_probing_leaves_no_trace(training: bool) -> None:
    backbone = MobileNetV1().train(training)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    probe(backbone, 48)
    assert backbone.training is training
    assert all(module.training is training for module in backbone.modules())
    assert all(torch.equal(v, before[name]) for name, v in backbone.state_dict().items())


def test_v1_is_kerass_blocks_in_keras_order() -> None:
    """A reference written out layer by layer, with Keras' epsilon for the norms."""
    torch.manual_seed(0)
    net = MobileNetV1().eval()
    for name, value in net.state_dict().items():
        if value.is_floating_point() and "bn" in name:
            value.uniform_(0.5, 1.5)
    state = net.state_dict()

    def norm(x: torch.Tensor, key: str) -> torch.Tensor:
        mean, var, weight, bias = (
            state[f"{key}.{name}"].view(1, -1, 1, 1)
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - mean) / (var + 1e-3).sqrt() * weight + bias).clamp(0, 6)

    def convolve(x: torch.Tensor, key: str, stride: int, groups: int = 1) -> torch.Tensor:
        before = 0 if stride == 2 and x.shape[-1] % 2 == 0 else 1
        x = nn.functional.pad(x, (before, 1, before, 1))
        return nn.functional.conv2d(x, state[key], stride=stride, groups=groups)

    x = torch.randn(2, 3, 50, 50)
    y = norm(convolve(x, "stem.conv.weight", 2), "stem.bn")
    for i, stride in enumerate((1, 2, 1, 2, 1, 2, 1, 1, 1)):
        y = convolve(y, f"blocks.{i}.dw.weight", stride, groups=y.shape[1])
        y = norm(y, f"blocks.{i}.dw_bn")
        if i < 8:
            y = nn.functional.conv2d(y, state[f"blocks.{i}.pw.weight"])
            y = norm(y, f"blocks.{i}.pw_bn")
    assert y.std() > 0.1
    torch.testing.assert_close(net(x), y, atol=1e-4, rtol=1e-4)
    assert "blocks.8.pw.weight" not in state


@pytest.fixture(scope="module")
def full_v2() -> dict[str, torch.Tensor]:
    """A state dict of the whole torchvision network, with random but plausible values."""
    from torchvision.models import mobilenet_v2

    torch.manual_seed(5)
    return dict(mobilenet_v2(weights=None).state_dict())


def load_weights(backbone: nn.Module, weights: str) -> None:
    """As for a run that begins with them."""
    path = Path(weights)
    imagenet = weights == "imagenet"
    state = pretrained(backbone) if imagenet else state_of(load_tensors(path), path)
    fill(backbone, state, weights)


def test_a_full_file_of_half_floats_fills_every_parameter(
    full_v2: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    half = {k: v.half() if v.is_floating_point() else v for k, v in full_v2.items()}
    torch.save(half, tmp_path / "v2.pth")
    backbone = MobileNetV2(14)
    load_weights(backbone, str(tmp_path / "v2.pth"))
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, half[name].to(value.dtype)), name
        assert value.dtype == full_v2[name].dtype
    assert {"classifier.1.weight", "features.18.0.weight"} <= half.keys()  # left out


def test_the_older_format_of_torch_save_loads(tmp_path: Path) -> None:
    state = {name: torch.rand(value.shape) for name, value in MobileNetV1().state_dict().items()}
    torch.save(state, tmp_path / "v1.pth", _use_new_zipfile_serialization=False)
    backbone = MobileNetV1()
    load_weights(backbone, str(tmp_path / "v1.pth"))
    assert torch.equal(backbone.blocks[4].pw.weight, state["blocks.4.pw.weight"])


def save(path: Path, state: Any) -> str:
    torch.save(state, path)
    return str(path)


def changed(state: dict[str, torch.Tensor], key: str, value: torch.Tensor) -> dict[str, Any]:
    return {**state, key: value}


@lru_cache
def v2() -> MobileNetV2:
    """One backbone for all refusals, which must not change it."""
    return MobileNetV2(14)


def assert_refused(weights: str, message: str) -> None:
    """Check for a `UserError` that names the file, and an unchanged backbone."""
    backbone = v2()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    with pytest.raises(UserError, match=message) as caught:
        load_weights(backbone, weights)
    assert weights in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(v, before[name]) for name, v in backbone.state_dict().items())


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert_refused(str(tmp_path / "none.pth"), "does not exist")
    assert_refused(str(tmp_path), "Is a directory")


def test_a_file_for_another_network_is_refused(tmp_path: Path) -> None:
    weights = save(tmp_path / "v1.pth", MobileNetV1().state_dict())
    assert_refused(weights, r"has no features\.0\.0\.weight, so it does not match this MobileNetV2")


def test_a_missing_weight_is_refused(full_v2: dict[str, torch.Tensor], tmp_path: Path) -> None:
    state = {k: v for k, v in full_v2.items() if k != "features.13.conv.2.weight"}
    assert_refused(save(tmp_path / "w.pth", state), r"has no features\.13\.conv\.2\.weight")


def test_a_weight_of_another_shape_is_refused(
    full_v2: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    state = changed(full_v2, "features.0.0.weight", torch.zeros(32, 1, 3, 3))
    message = r"features\.0\.0\.weight has shape \[32, 1, 3, 3\] where \[32, 3, 3, 3\]"
    assert_refused(save(tmp_path / "w.pth", state), message)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_no_number_is_refused(
    full_v2: dict[str, torch.Tensor], tmp_path: Path, value: float
) -> None:
    weight = full_v2["features.2.conv.2.weight"].clone()
    weight.view(-1)[-1] = value
    state = changed(full_v2, "features.2.conv.2.weight", weight)
    message = r"features\.2\.conv\.2\.weight holds NaN or infinity"
    assert_refused(save(tmp_path / "w.pth", state), message)


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {}}, torch.zeros(3), {"a": 1.0}])
def test_a_file_that_is_no_state_dict_is_refused(content: Any, tmp_path: Path) -> None:
    assert_refused(save(tmp_path / "w.pth", content), "holds no state dict")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_cut_off_file_is_refused(
    full_v2: dict[str, torch.Tensor], tmp_path: Path, zipped: bool
) -> None:
    path = tmp_path / "w.pth"
    torch.save(full_v2, path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    for part in (0.999, 0.5, 0.05, 0.01, 0.001, 0.0):
        path.write_bytes(data[: int(len(data) * part)])
        assert_refused(str(path), "not a safe file of tensors")


@pytest.mark.parametrize(
    "content",
    [b"<html>404</html>", b".gitignore\n", b"(a list)\n", b"0\n", b"emotion,pixels\n", b"X____",
     b"\x89PNG\r\n\x1a\n", b"j\xf1ua", b"\xff" * 64],
)  # fmt: skip
def test_a_file_of_something_else_is_refused(content: bytes, tmp_path: Path) -> None:
    """Some of these are the opcodes of a pickle that pops from an empty stack."""
    (tmp_path / "w.pth").write_bytes(content)
    assert_refused(str(tmp_path / "w.pth"), "not a safe file of tensors")


class _Malicious:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("kind", ["zip", "legacy", "bare"])
def test_code_in_a_file_of_weights_is_refused_and_not_run(
    full_v2: dict[str, torch.Tensor], tmp_path: Path, kind: str
) -> None:
    path, mark = tmp_path / "w.pth", tmp_path / "ran"
    state = {**full_v2, "extra": _Malicious(mark)}
    if kind == "bare":
        path.write_bytes(pickle.dumps(_Malicious(mark)))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    assert_refused(str(path), "not a safe file of tensors")
    assert not mark.exists()
    # The file works as intended: an unsafe load would have run it.
    if kind == "bare":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert mark.exists()


def test_torchvision_has_no_v1() -> None:
    with pytest.raises(UserError, match=r"no weights for MobileNetV1; give model\.weights a local"):
        load_weights(MobileNetV1(), "imagenet")


def test_torchvisions_download_is_loaded_and_its_failure_is_the_users_error(
    full_v2: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.models import MobileNet_V2_Weights

    monkeypatch.setattr(MobileNet_V2_Weights, "get_state_dict", lambda *_, **__: full_v2)
    backbone = MobileNetV2(14)
    load_weights(backbone, "imagenet")
    assert torch.equal(backbone.features[3].conv[2].weight, full_v2["features.3.conv.2.weight"])

    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(MobileNet_V2_Weights, "get_state_dict", offline)
    with pytest.raises(UserError, match=r"cannot download .*no route to host"):
        load_weights(backbone, "imagenet")


def test_the_documented_conversion_of_keras_network_fills_every_parameter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With layers that have Keras' names and order of axes; the counters are only PyTorch's."""
    torch.manual_seed(3)
    source = {name: torch.rand(value.shape) for name, value in MobileNetV1().state_dict().items()}
    layers: dict[str, list[Any]] = {
        # The pointwise layer after the cut, which a run does not use.
        "conv_pw_9": [np.zeros((1, 1, 512, 512))],
        "conv_pw_9_bn": [np.zeros(512)] * 4,
    }
    for name, value in source.items():
        if name.endswith("num_batches_tracked"):
            continue
        place = name.rpartition(".")[0]
        *_, number, kind = f"0.{place}".replace("stem.", "").split(".")
        layer = kind if place.startswith("stem") else f"{kind}_{int(number) + 1}"
        layer = re.sub(r"^(dw|pw)(_bn)?_(\d)$", r"conv_\1_\3\2", layer)
        layer = {"conv": "conv1", "bn": "conv1_bn"}.get(layer, layer)
        array = value.numpy()
        if array.ndim == 4:
            array = array.transpose((2, 3, 0, 1) if kind == "dw" else (2, 3, 1, 0))
        layers.setdefault(layer, []).append(array)

    def layer_of(name: str) -> Any:
        return SimpleNamespace(get_weights=lambda: layers[name])

    network = SimpleNamespace(get_layer=layer_of)
    applications = SimpleNamespace(MobileNet=lambda **_: network)
    monkeypatch.setitem(sys.modules, "keras", SimpleNamespace(applications=applications))
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "weights.md").read_text()
    [code] = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    exec(code, {})
    backbone = MobileNetV1()
    load_weights(backbone, "mobilenet_v1.pt")
    for name, value in backbone.named_parameters():
        assert torch.equal(value, source[name]), name
    assert torch.equal(backbone.blocks[3].pw_bn.running_var, source["blocks.3.pw_bn.running_var"])
