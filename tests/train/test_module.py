import pytest
import torch
from torch.nn import functional as F

from pattlite_dist.config import Config
from pattlite_dist.train.module import loss_of

SAMPLES, CLASSES = 6, 8


def config(targets: str, bad_shards: str = "stop", smoothing: float = 0.0) -> Config:
    return Config.model_validate(
        {
            "data": {"targets": targets, "bad_shards": bad_shards},
            "optim": {"label_smoothing": smoothing},
        }
    )


def a_batch() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits, and a batch whose fourth sample does not count."""
    random = torch.Generator().manual_seed(3)
    logits = torch.randn(SAMPLES, CLASSES, generator=random, requires_grad=True)
    target = torch.rand(SAMPLES, CLASSES, generator=random)
    target = target / target.sum(1, keepdim=True)
    counts = torch.arange(SAMPLES) != 3
    return logits, {"label": target.argmax(1), "target": target, "counts": counts}


def by_hand(logits: torch.Tensor, shares: torch.Tensor, smoothing: float) -> torch.Tensor:
    shares = shares * (1 - smoothing) + smoothing / CLASSES
    return -(shares * logits.log_softmax(1)).sum(1)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("targets", ["labels", "votes"])
def test_the_loss_is_the_cross_entropy_with_what_is_aimed_at(
    targets: str, smoothing: float
) -> None:
    logits, batch = a_batch()
    shares = {"labels": F.one_hot(batch["label"], CLASSES), "votes": batch["target"]}[targets]
    expected = by_hand(logits, shares, smoothing)
    loss = loss_of(logits, batch, config(targets, smoothing=smoothing))
    torch.testing.assert_close(loss, expected.mean())
    skipping = loss_of(logits, batch, config(targets, "skip", smoothing))
    torch.testing.assert_close(skipping, expected[batch["counts"]].sum() / SAMPLES)


def test_the_gradient_of_votes_is_the_prediction_less_their_shares() -> None:
    logits, batch = a_batch()
    loss_of(logits, batch, config("votes")).backward()
    assert logits.grad is not None
    expected = (logits.detach().softmax(1) - batch["target"]) / SAMPLES
    torch.testing.assert_close(logits.grad, expected)


def test_votes_of_one_class_are_a_label() -> None:
    logits, batch = a_batch()
    batch["target"] = F.one_hot(batch["label"], CLASSES).float()
    votes, labels = (loss_of(logits, batch, config(name)) for name in ("votes", "labels"))
    torch.testing.assert_close(votes, labels)


def test_votes_are_aimed_at_in_bf16_as_well() -> None:
    logits, batch = a_batch()
    exact = loss_of(logits, batch, config("votes", smoothing=0.1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = loss_of(logits.bfloat16(), batch, config("votes", smoothing=0.1))
    torch.testing.assert_close(rough.float(), exact, rtol=0.02, atol=0)


def test_where_labels_are_aimed_at_a_batch_needs_no_votes() -> None:
    logits, batch = a_batch()
    del batch["target"]
    assert loss_of(logits, batch, config("labels")).isfinite()
