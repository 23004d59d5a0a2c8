import math
from typing import Any

import pytest
import torch
from torch import nn

from pattlite_dist.errors import UserError
from pattlite_dist.model.attention import AttentionClassifier, KerasBatchNorm1d, ViTBlock


def randomised(module: nn.Module) -> nn.Module:
    """In eval mode, with parameters and statistics that are neither 0 nor 1."""
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if "running_var" in name:
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
            elif value.is_floating_point():
                value.copy_(torch.randn(value.shape, generator=generator) * 0.3)
    return module.eval()


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_a_vit_block_equals_an_einsum_reference(heads: int) -> None:
    width = 8
    block, x = randomised(ViTBlock(width, heads, dropout=0.5)), torch.randn(3, 5, width)
    s = block.state_dict()

    def norm(t: torch.Tensor, name: str) -> torch.Tensor:
        centred = t - t.mean(-1, keepdim=True)
        scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * s[f"{name}.weight"] + s[f"{name}.bias"]

    projected = norm(x, "norm1") @ s["qkv.weight"].T + s["qkv.bias"]
    q, k, v = (part.reshape(3, 5, heads, width // heads) for part in projected.split(width, -1))
    scores = torch.einsum("nihd,njhd->nhij", q, k) / math.sqrt(width // heads)
    weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
    mixed = torch.einsum("nhij,njhd->nihd", weights, v).reshape(3, 5, width)
    y = x + mixed @ s["out.weight"].T + s["out.bias"]
    hidden = norm(y, "norm2") @ s["mlp.0.weight"].T + s["mlp.0.bias"]
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    expected = y + hidden @ s["mlp.3.weight"].T + s["mlp.3.bias"]
    torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-5)
    assert (block(x) - x).abs().mean() > 0.1


def test_the_attention_classifier_equals_a_loop_reference() -> None:
    net = randomised(AttentionClassifier(6, classes=4, width=5, dropout=0.5))
    with torch.no_grad():
        net.scale.fill_(1.7)
    s, x = net.state_dict(), torch.randn(3, 4, 6)
    logits = net(x)
    for n in range(3):
        tokens = []
        for patch in x[n]:
            dense = (s["dense.weight"] @ patch + s["dense.bias"]).clamp(min=0)
            scaled = (dense - s["norm.running_mean"]) / (s["norm.running_var"] + 1e-3).sqrt()
            tokens.append(scaled * s["norm.weight"] + s["norm.bias"])
        attended = []
        for query in tokens:
            scores = torch.stack([1.7 * (query @ key) for key in tokens])
            weights = scores.exp() / scores.exp().sum()
            attended.append(sum(w * value for w, value in zip(weights, tokens, strict=True)))
        pooled = sum(attended) / 4
        expected = s["head.weight"] @ pooled + s["head.bias"]
        torch.testing.assert_close(logits[n], expected, atol=1e-5, rtol=1e-5)
    assert (logits[0] - logits[1]).abs().max() > 1e-2


def test_the_classifiers_scale_and_the_order_of_patches() -> None:
    net = randomised(AttentionClassifier(6, classes=4, width=5))
    x = torch.randn(3, 7, 6)
    torch.testing.assert_close(net(x.flip(1)), net(x), atol=1e-5, rtol=1e-5)  # a mean over a set
    before = net(x)
    with torch.no_grad():
        net.scale.fill_(5)
    assert (net(x) - before).abs().max() > 1e-3


def test_the_norm_of_the_classifier_sees_every_patch_of_every_sample() -> None:
    net = AttentionClassifier(6, classes=4, width=5, dropout=0).train()
    x = torch.randn(8, 3, 6)
    net(x)
    dense = torch.relu(net.dense(x)).reshape(24, 5)
    torch.testing.assert_close(net.norm.running_mean, 0.01 * dense.mean(0).detach())


@pytest.mark.parametrize(
    "net", [AttentionClassifier(8, 4, dropout=0.5), ViTBlock(8, 2, dropout=0.5)]
)
def test_dropout_acts_in_training_only(net: nn.Module) -> None:
    x = torch.randn(4, 5, 8)
    net.train()
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))


@pytest.mark.parametrize("kind", ["vit", "pattlite"])
def test_attention_stays_within_a_sample(kind: str) -> None:
    net = randomised(ViTBlock(8, 2, 0.0) if kind == "vit" else AttentionClassifier(8, 4))
    x = torch.randn(4, 5, 8)
    other = x.clone()
    other[1:] = torch.randn(3, 5, 8) * 10
    torch.testing.assert_close(net(other)[0], net(x)[0], atol=1e-5, rtol=1e-5)
    assert (net(other)[1:] - net(x)[1:]).abs().max() > 0.1


def test_the_norm_normalises_as_pytorchs_and_keeps_a_biased_variance() -> None:
    ours, theirs = KerasBatchNorm1d(5), nn.BatchNorm1d(5, eps=1e-3, momentum=0.01)
    x = torch.randn(8, 5, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    torch.testing.assert_close(ours(x), theirs(y))
    (ours(x) ** 3).sum().backward()
    (theirs(y) ** 3).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    ours, theirs = KerasBatchNorm1d(5), nn.BatchNorm1d(5)
    ours.momentum = theirs.momentum = 1.0
    ours(x)
    theirs(x)
    torch.testing.assert_close(ours.running_var, theirs.running_var * 7 / 8)
    torch.testing.assert_close(ours.eval()(x), (x - x.mean(0)) / (x.var(0, False) + 1e-3).sqrt())
    assert ours.state_dict().keys() == theirs.state_dict().keys()


@pytest.mark.parametrize("attention", ["none", "batch"])
def test_one_image_a_rank_is_too_few_to_train_with(attention: Any) -> None:
    net, patches = AttentionClassifier(8, 3, attention=attention), torch.randn(1, 4, 8)
    with pytest.raises(UserError, match=r"one image per rank; raise trainer\.global_batch"):
        net.train()(patches)
    net.eval()(patches)
    AttentionClassifier(8, 3).train()(patches)


@pytest.mark.parametrize("attention", ["none", "batch"])
def test_without_attention_a_patch_is_a_mean_and_over_the_batch_means_attend(
    attention: str,
) -> None:
    net = randomised(AttentionClassifier(6, classes=4, width=5, attention=attention))  # type: ignore[arg-type]
    s, x = net.state_dict(), torch.randn(3, 4, 6)
    dense = (x.mean(1) @ s["dense.weight"].T + s["dense.bias"]).clamp(min=0)
    scaled = (dense - s["norm.running_mean"]) / (s["norm.running_var"] + 1e-3).sqrt()
    tokens = scaled * s["norm.weight"] + s["norm.bias"]
    if attention == "batch":
        tokens = (s["scale"] * tokens @ tokens.T).softmax(-1) @ tokens
    expected = tokens @ s["head.weight"].T + s["head.bias"]
    torch.testing.assert_close(net(x), expected, atol=1e-5, rtol=1e-5)
