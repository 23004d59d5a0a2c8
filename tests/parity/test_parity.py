"""Our network compared with the reference in Keras, stage by stage; see keras_reference.py."""

import copy
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pattlite_dist.model import backbones
from pattlite_dist.model.build import PattLite, network
from pattlite_dist.model.settings import ModelConfig
from tests.parity import material

# Single precision: what the issue of parity is about. Double: nothing is left but the order of
# additions, so that a wrong constant anywhere shows.
PRECISIONS = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-9)], ids=["single", "double"]
)
TRAINING = ("norm_in_training", "moving_mean", "moving_variance")


@lru_cache
def reference() -> dict[str, material.Array]:
    """Digests by `stage/NAME` and, for a reference with its own weights, `weights/NAME`."""
    with np.load(Path(os.environ.get("PATTLITE_PARITY", material.REFERENCE))) as stored:
        return dict(stored)


@lru_cache
def loaded(attention: str, dtype: torch.dtype) -> PattLite:
    """Our network with the reference's weights."""
    model = network(
        ModelConfig(name="pattlite", attention=attention, dropout=0.0),  # type: ignore[arg-type]
        material.SIDE,
        material.CLASSES,
    )
    assert isinstance(model, PattLite)
    given = {k.removeprefix("weights/"): v for k, v in reference().items() if k[:7] == "weights"}
    state = model.state_dict()
    wanted = {key for key in state if not key.endswith("num_batches_tracked")}
    weights = material.weights() | given
    assert wanted == weights.keys() - ({"classifier.scale"} if attention == "none" else set())
    for key in wanted:
        assert state[key].shape == weights[key].shape
        state[key] = torch.from_numpy(np.array(weights[key]))
    model.load_state_dict(state)
    return model.to(dtype).eval()


def photographs(dtype: torch.dtype) -> torch.Tensor:
    pixels = torch.from_numpy(material.photographs()).permute(0, 3, 1, 2).to(dtype) / 255
    mean, std = (torch.tensor(v, dtype=dtype).view(-1, 1, 1) for v in (0.5, 0.5))
    return (pixels - mean) / std


@torch.no_grad()
def observe(model: PattLite, dtype: torch.dtype, attention: str) -> dict[str, torch.Tensor]:
    """The output of each of our stages, by Keras' names."""
    seen: dict[str, torch.Tensor] = {}
    handles = []

    def watch(module: nn.Module, note: Callable[[torch.Tensor], None]) -> None:
        handles.append(module.register_forward_hook(lambda _m, _i, out: note(out)))

    def norm_and_relu(module: nn.Module, name: str) -> None:
        watch(module, lambda out: seen.update({f"{name}_bn": out, f"{name}_relu": F.relu6(out)}))

    def rectified(module: nn.Module, name: str) -> None:
        watch(module, lambda out: seen.update({name: F.relu(out)}))

    norm_and_relu(model.backbone.stem.bn, "conv1")  # type: ignore[arg-type]
    for i, block in enumerate(model.backbone.blocks, start=1):
        norm_and_relu(block.dw_bn, f"conv_dw_{i}")  # type: ignore[arg-type]
        if i < 9:
            norm_and_relu(block.pw_bn, f"conv_pw_{i}")  # type: ignore[arg-type]
    for i, layer in enumerate(model.patches.layers, start=1):
        rectified(layer, f"patch_extraction_{i}")
    rectified(model.classifier.dense, f"{attention}.dense")
    watch(model.classifier.norm, lambda out: seen.update({f"{attention}.norm": out}))
    handles.append(
        model.classifier.head.register_forward_pre_hook(
            lambda _m, inputs: seen.update({f"{attention}.attention": inputs[0]})
        )
    )
    try:
        images = photographs(dtype)
        logits = model(images)
    finally:
        for handle in handles:
            handle.remove()
    seen |= {"input": images, f"{attention}.logits": logits}
    seen |= {f"{attention}.probabilities": logits.softmax(-1)}
    if attention != "patches":
        seen["gap"] = seen["patch_extraction_3"].mean((2, 3))
    return seen


def distance(stage: str, ours: torch.Tensor) -> float:
    """Largest difference from the reference's digest."""
    theirs = reference()[f"stage/{stage}"]
    told = material.digest(stage, ours.detach().double().reshape(len(theirs), -1).numpy())
    assert told.shape == theirs.shape, stage
    return float(np.abs(told - theirs).max())


def predicting(attention: str) -> set[str]:
    """Names of the stages that a variant runs in prediction."""
    names = {name[6:] for name in reference() if name.startswith("stage/")}
    others = tuple(f"{name}." for name in material.VARIANTS if name != attention)
    names = {name for name in names if not name.startswith(others) and name[-4:] != "gap"}
    names = {name for name in names if not name.endswith(TRAINING)}
    return names if attention == "patches" else names | {"gap"}


def apart(seen: dict[str, torch.Tensor], tolerance: float) -> dict[str, float]:
    """Stages that differ from the reference by more than the tolerance, or are NaN."""
    return {k: off for k, v in seen.items() if not (off := distance(k, v)) < tolerance}


@PRECISIONS
@pytest.mark.parametrize("attention", material.VARIANTS)
def test_every_stage_agrees_with_keras(
    attention: str, dtype: torch.dtype, tolerance: float
) -> None:
    seen = observe(loaded(attention, dtype), dtype, attention)
    assert seen.keys() == predicting(attention)
    assert len(seen) > 40
    assert apart(seen, tolerance) == {}


@PRECISIONS
@pytest.mark.parametrize("attention", ["patches", "batch"])
@torch.no_grad()
def test_a_step_of_training_moves_the_classifiers_norm_as_in_keras(
    attention: str, dtype: torch.dtype, tolerance: float
) -> None:
    model = loaded(attention, dtype)
    norm = copy.deepcopy(model.classifier.norm).train()
    tokens = observe(model, dtype, attention)[f"{attention}.dense"].flatten(0, -2)
    seen = {f"{attention}.norm_in_training": norm(tokens)}
    # The order of summation changes the last digits of a variance, and 1 / sqrt magnifies that.
    assert apart(seen, 10 * tolerance) == {}
    moved = {"moving_mean": norm.running_mean, "moving_variance": norm.running_var}
    # Keras keeps 1 - momentum in single precision, even in a double-precision network.
    assert apart({f"{attention}.{k}": v for k, v in moved.items()}, 1e-6) == {}
    pytorchs = nn.BatchNorm1d(32, eps=1e-3, momentum=0.01).to(dtype)
    pytorchs.load_state_dict(model.classifier.norm.state_dict())
    pytorchs(tokens)
    assert pytorchs.running_var is not None
    assert distance(f"{attention}.moving_variance", pytorchs.running_var) > 1e-4


@pytest.mark.parametrize(
    ("habit", "first"),
    [("epsilon", "conv1_bn"), ("padding", "conv1_bn"), ("attention", "batch.attention")],
)
def test_a_habit_of_pytorch_would_show(
    habit: str, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = copy.deepcopy(loaded("batch", torch.float32))
    if habit == "epsilon":
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 1e-5
    elif habit == "padding":
        monkeypatch.setattr(backbones, "same_padding", lambda x, k, _: F.pad(x, [k // 2] * 4))
    else:
        model.classifier.attention = "none"
    far = apart(observe(model, torch.float32, "batch"), 1e-4)
    assert first in far
    assert "batch.logits" in far


@torch.no_grad()
def test_the_published_network_sees_the_batch_and_its_mended_form_does_not() -> None:
    images = photographs(torch.float64)
    moved = {}
    for attention in material.VARIANTS:
        model = loaded(attention, torch.float64)
        moved[attention] = (model(images[:2])[0] - model(images)[0]).abs().max()
    assert moved["batch"] > 1e-2
    assert max(moved["patches"], moved["none"]) < 1e-12


@torch.no_grad()
def test_the_published_network_asked_one_by_one_has_no_attention() -> None:
    batch, none = (loaded(attention, torch.float64) for attention in ("batch", "none"))
    for image in photographs(torch.float64).split(1):
        torch.testing.assert_close(batch(image), none(image), atol=1e-12, rtol=0)
