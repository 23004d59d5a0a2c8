from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from pattlite_dist.config import Config
from pattlite_dist.train.module import loss_of
from tests.conftest import tiny
from tests.starts import Zygote
from tests.train.harness import final, logged

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


@pytest.mark.slow
def test_a_global_batch_in_pieces_is_the_same_step_on_any_number_of_ranks(
    zygote: Zygote, face_shards: Path, tmp_path: Path
) -> None:
    """BatchNorm sees one piece at a time, so it is frozen; the pieces are of unequal size.

    Images are mixed with those of other pieces and ranks.
    """

    def gradients(name: str, ranks: int, pieces: int) -> torch.Tensor:
        changes: dict[str, object] = {
            "trainer.epochs": 1, "trainer.global_batch": 60, "trainer.accumulate": pieces,
            "model.dropout": 0, "optim.ema": 0, "optim.schedule": "constant", "optim.lr": 1e-9,
            "augment.mixup": 0.4, "augment.cutmix": 1.0,
        }  # fmt: skip
        arguments = tiny(face_shards, tmp_path, name, **changes)
        start = zygote.start(arguments, ranks, record=tmp_path / f"{name}.record", freeze=True)
        assert start.ended, start.log
        (state,) = final(tmp_path / name)["optimizer_states"]
        return torch.cat([part["exp_avg"].flatten() for part in state["state"].values()])

    whole = gradients("whole", 1, 1)
    assert whole.norm() > 1e-3
    for name, ranks, pieces in (("one", 1, 7), ("two", 2, 4)):
        difference = (gradients(name, ranks, pieces) - whole).norm() / whole.norm()
        assert difference < 1e-5
        # The loss that is logged is that of the global batch, and not of the first rank's share.
        for (step, loss), (same, other) in zip(
            logged(tmp_path / name, "train/loss"),
            logged(tmp_path / "whole", "train/loss"),
            strict=True,
        ):
            assert step == same
            assert loss == pytest.approx(other, rel=1e-5)
    assert logged(tmp_path / "one", "train/top1") == logged(tmp_path / "whole", "train/top1")
