import logging
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import nn

from pattlite_dist.errors import UserError
from pattlite_dist.model.build import (
    MobileNetV2ViT,
    PattLite,
    build_model,
    refuse_batch_dependent,
    synchronise,
)
from pattlite_dist.model.settings import ModelConfig

VIT_14: dict[str, Any] = {"name": "mobilenetv2-vit", "cut": 14, "width": 32, "heads": 4}
VIT_19: dict[str, Any] = {"name": "mobilenetv2-vit", "cut": 19, "width": 32, "heads": 4}
PATTLITE: dict[str, Any] = {"name": "pattlite"}
BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
MODELS = pytest.mark.parametrize(
    "model", [VIT_14, VIT_19, PATTLITE], ids=["vit-14", "vit-19", "pattlite"]
)


def build(model: dict[str, Any], size: int = 48, classes: int = 7) -> PattLite | MobileNetV2ViT:
    torch.manual_seed(0)
    return build_model(ModelConfig.model_validate(model), size, classes)


def images(n: int, size: int = 48, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    # Each has a different brightness, so random weights distinguish them.
    level = torch.linspace(-1, 1, n).view(n, 1, 1, 1)
    return torch.randn(n, 3, size, size, generator=generator) + level


@lru_cache
def settled(name: str, cut: int, size: int) -> nn.Module:
    """In eval mode and double precision.

    The norms have the statistics of a real pass: with the initial ones, the signals would vanish.
    """
    model: dict[str, Any] = {"name": name, "cut": cut, "width": 32, "heads": 4}
    net = build(model, size).double()
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.momentum = 1.0
    with torch.no_grad():
        net(images(8, size, seed=2).double())
    return net.eval()


@MODELS
@pytest.mark.parametrize("size", [48, 64, 96, 224])
def test_images_of_every_size_become_one_logit_a_class(model: dict[str, Any], size: int) -> None:
    net = build(model, size, classes=5).eval()
    with torch.no_grad():
        logits = net(images(2, size))
    assert logits.shape == (2, 5)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


CASES = pytest.mark.parametrize(
    ("name", "cut", "size"),
    [("mobilenetv2-vit", 14, 48), ("mobilenetv2-vit", 14, 144), ("mobilenetv2-vit", 19, 64),
     ("pattlite", 14, 48), ("pattlite", 14, 96)],
)  # fmt: skip


@CASES
@torch.no_grad()
def test_a_prediction_does_not_depend_on_its_companions(name: str, cut: int, size: int) -> None:
    # In double precision, so that a remaining dependence is not due to rounding.
    net, x = settled(name, cut, size), images(6, size).double()
    together = net(x)
    assert (together - together.mean(0)).abs().max() > 1e-2  # the samples do differ
    for i in range(6):
        torch.testing.assert_close(net(x[i : i + 1])[0], together[i], atol=1e-9, rtol=0)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(net(x[order]), together[order], atol=1e-9, rtol=0)
    strangers = torch.cat([x[:1], images(5, size, seed=9).double() * 3])
    torch.testing.assert_close(net(strangers)[0], together[0], atol=1e-9, rtol=0)


@CASES
def test_a_gradient_reaches_only_its_own_sample(name: str, cut: int, size: int) -> None:
    net, x = settled(name, cut, size), images(3, size).double().requires_grad_()
    net(x)[1].square().sum().backward()
    assert x.grad is not None
    assert (x.grad.abs().amax((1, 2, 3)) > 0).tolist() == [False, True, False]


@MODELS
def test_a_gradient_reaches_every_parameter(model: dict[str, Any]) -> None:
    net = build(model, 64).train()
    loss = nn.functional.cross_entropy(net(images(8, 64)), torch.arange(8) % 7)
    loss.backward()
    without = [
        name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0
    ]
    assert without == []


def test_the_name_chooses_the_network() -> None:
    assert isinstance(build(VIT_14), MobileNetV2ViT)
    assert isinstance(build(PATTLITE), PattLite)


def test_pattlite_is_as_light_as_published() -> None:
    """The paper counts 1.10 M parameters."""
    net = build(PATTLITE, 224)
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(1.10e6, rel=0.02)


@pytest.mark.parametrize("sizes", [(48, 224), (96, 64)])
def test_pattlites_weights_fit_every_image_size(sizes: tuple[int, int]) -> None:
    small, large = (build(PATTLITE, size) for size in sizes)
    large.load_state_dict(small.state_dict())
    with torch.no_grad():
        assert large.eval()(images(1, sizes[1])).shape == (1, 7)


@pytest.mark.parametrize("name", ["pattlite", "mobilenetv2-vit"])
def test_batchnorm_over_all_ranks_keeps_every_name_and_weight(name: str) -> None:
    plain, changed = build({"name": name}, 48, 7), build({"name": name}, 48, 7)
    changed.load_state_dict(plain.state_dict())
    synchronise(changed, 1, False)
    norms = [m for m in changed.modules() if isinstance(m, BATCH_NORM)]
    assert not any(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
    with pytest.raises(UserError, match="sync_batchnorm=true requires GPUs"):
        synchronise(changed, 2, False)
    synchronise(changed, 2, True)
    after = [m for m in changed.modules() if isinstance(m, BATCH_NORM)]
    assert len(after) == len(norms)
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in after)
    assert list(changed.state_dict()) == list(plain.state_dict())
    assert all(map(torch.equal, changed.state_dict().values(), plain.state_dict().values()))
    assert [norm.eps for norm in after] == [norm.eps for norm in norms]


VARIANTS = pytest.mark.parametrize("attention", ["patches", "none", "batch"])


def test_attention_over_the_batch_warns_in_one_line_and_the_others_do_not(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for model in (VIT_14, PATTLITE, {"name": "pattlite", "attention": "none"}):
        build(model)
    assert caplog.records == []
    build({"name": "pattlite", "attention": "batch"})
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "for study only" in record.getMessage()
    assert "\n" not in record.getMessage()
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2" if "SIZE" in name else "1")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a")
    build({"name": "pattlite", "attention": "batch"})
    assert len(caplog.records) == 1  # the first rank warns


@VARIANTS
def test_only_a_network_whose_predictions_depend_on_the_batch_is_refused(attention: str) -> None:
    net = build({"name": "pattlite", "attention": attention})
    if attention == "batch":
        assert net.batch_dependent
        with pytest.raises(UserError, match=r"refusing to export: .* model\.attention=batch"):
            refuse_batch_dependent(net, "export")
    else:
        assert not net.batch_dependent
        refuse_batch_dependent(net, "export")
    refuse_batch_dependent(build(VIT_14), "export")
    refuse_batch_dependent(nn.Linear(1, 1), "export")


@VARIANTS
@torch.no_grad()
def test_a_variant_depends_on_companions_exactly_if_it_says_so(attention: str) -> None:
    net, x = build({"name": "pattlite", "attention": attention}).double(), images(6).double()
    net.train()(x)
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.momentum = 1.0
    net(x)
    net.eval()
    moved = (net(x[:2])[0] - net(x)[0]).abs().max()
    assert moved > 1e-3 if net.batch_dependent else moved < 1e-9


@VARIANTS
def test_a_gradient_reaches_every_parameter_of_a_variant(attention: str) -> None:
    net = build({"name": "pattlite", "attention": attention}, 64).train()
    nn.functional.cross_entropy(net(images(8, 64)), torch.arange(8) % 7).backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_variants_share_their_weights_but_for_the_scale() -> None:
    keys = {
        name: set(build({"name": "pattlite", "attention": name}).state_dict())
        for name in ("patches", "none", "batch")
    }
    assert keys["patches"] == keys["batch"] == keys["none"] | {"classifier.scale"}


def test_attention_over_the_batch_is_no_variant_of_the_seed() -> None:
    with pytest.raises(
        ValueError, match="attention batch requires name pattlite, not mobilenetv2-vit"
    ):
        ModelConfig(name="mobilenetv2-vit", attention="batch")
