import pytest
import torch
from torch.nn import functional as F

from pattlite_dist.config import Config
from pattlite_dist.train.loss import loss_of

SAMPLES, CLASSES = 6, 8


def config(
    targets: str, bad_shards: str = "stop", smoothing: float = 0.0, tail: str = "drop"
) -> Config:
    return Config.model_validate(
        {
            "data": {"targets": targets, "bad_shards": bad_shards, "tail": tail},
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
    return logits, {
        "label": target.argmax(1), "target": target, "counts": counts, "weight": counts.float(),
    }  # fmt: skip


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


@pytest.mark.parametrize("tail", ["drop", "pad"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("targets", ["labels", "votes"])
def test_classes_weigh_as_in_pytorch_but_for_the_mean_which_is_over_samples(
    targets: str, smoothing: float, tail: str
) -> None:
    logits, batch = a_batch()
    batch["weight"] = torch.ones(SAMPLES)
    weights = torch.arange(1, CLASSES + 1) / 4
    reference = F.cross_entropy(
        logits, batch["target" if targets == "votes" else "label"], weights,
        label_smoothing=smoothing, reduction="none",
    )  # fmt: skip
    settings = config(targets, smoothing=smoothing, tail=tail)
    shares = [loss_of(part, own, settings, weights) for part, own in halves(logits, batch)]
    torch.testing.assert_close(torch.stack(shares).mean(), reference.mean())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = loss_of(logits.bfloat16(), batch, settings, weights)
    torch.testing.assert_close(rough.float(), reference.mean(), rtol=0.02, atol=0)


def halves(
    logits: torch.Tensor, batch: dict[str, torch.Tensor]
) -> list[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
    """The shares of two ranks."""
    return [
        (part, {name: values.chunk(2)[rank] for name, values in batch.items()})
        for rank, part in enumerate(logits.chunk(2))
    ]


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


@pytest.mark.parametrize("ranks", [1, 2, 3, 6])
@pytest.mark.parametrize("counting", [1, 2, 5, 6])
@pytest.mark.parametrize("targets", ["labels", "votes"])
def test_of_a_padded_batch_the_mean_over_ranks_is_that_of_the_samples_that_count(
    targets: str, counting: int, ranks: int
) -> None:
    logits, batch = a_batch()
    shares = {"labels": F.one_hot(batch["label"], CLASSES), "votes": batch["target"]}[targets]
    batch["counts"] = torch.arange(SAMPLES) < counting
    batch["weight"] = batch["counts"] * (SAMPLES / counting)
    losses = []
    for rank, part in enumerate(logits.chunk(ranks)):
        own = {name: values.chunk(ranks)[rank] for name, values in batch.items()}
        losses.append(loss_of(part, own, config(targets, tail="pad")))
    expected = by_hand(logits, shares, 0)[:counting].mean()
    torch.testing.assert_close(torch.stack(losses).mean(), expected)
