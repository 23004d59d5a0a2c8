import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pattlite_dist.errors import UserError
from pattlite_dist.train.metrics import Census, Outputs, Result, Scores

CLASSES = 4


def batch(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are mostly right, and labels of all classes but the last."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES - 1, (n,), generator=generator)
    logits = torch.randn(n, CLASSES, generator=generator) + 1.5 * F.one_hot(labels, CLASSES)
    return logits, labels


def scored(*parts: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> Result:
    scores = Scores(CLASSES)
    for part in parts:
        scores.update(*part)
    return scores.compute(sum(int(counts.sum()) for _, _, counts in parts))


def everything(logits: torch.Tensor, labels: torch.Tensor) -> Result:
    return scored((logits, labels, torch.ones(len(labels), dtype=torch.bool)))


def test_a_case_small_enough_for_paper() -> None:
    # Predictions 0 0 1 2 1, labels 0 1 1 2 2.
    logits = torch.log(
        torch.tensor(
            [[0.7, 0.1, 0.1, 0.1], [0.4, 0.3, 0.2, 0.1], [0.1, 0.6, 0.2, 0.1],
             [0.2, 0.2, 0.5, 0.1], [0.1, 0.6, 0.25, 0.05]]
        )
    )  # fmt: skip
    result = everything(logits, torch.tensor([0, 1, 1, 2, 2]))
    assert result.samples == 5
    assert result.top1 == pytest.approx(3 / 5)
    assert result.confusion == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    assert result.recall == pytest.approx([1, 1 / 2, 1 / 2, 0])
    # F1 of 0, 1, 2; class 3 is neither present nor predicted and not part of the mean.
    assert result.macro_f1 == pytest.approx((2 / 3 + 1 / 2 + 2 / 3) / 3)
    nll = -sum(math.log(p) for p in (0.7, 0.3, 0.6, 0.5, 0.25)) / 5
    assert result.nll == pytest.approx(nll, abs=1e-6)


def test_scores_equal_a_reference_with_the_padding_left_out() -> None:
    logits, labels = batch(200)
    counts = torch.rand(200, generator=torch.Generator().manual_seed(1)) < 0.7
    labels[~counts] = 0  # padding is sample 0, here always predicted correctly
    logits[~counts] = torch.tensor([9.0, 0, 0, 0])
    result = scored(*zip(logits.split(16), labels.split(16), counts.split(16), strict=True))

    kept, truth = logits[counts].double().numpy(), labels[counts].numpy()
    confusion = np.zeros((CLASSES, CLASSES), int)
    for true, guess in zip(truth, kept.argmax(1), strict=True):
        confusion[true, guess] += 1
    right, true_counts, guess_counts = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    assert guess_counts[CLASSES - 1] > 0  # predicted but never true: an F1 of 0 that counts
    log_probability = kept - np.log(np.exp(kept).sum(1, keepdims=True))
    assert result.samples == counts.sum()
    assert result.confusion == confusion.tolist()
    assert result.top1 == pytest.approx(right.sum() / confusion.sum())
    assert result.macro_f1 == pytest.approx(np.mean(2 * right / (true_counts + guess_counts)))
    assert result.recall == pytest.approx(right / np.maximum(true_counts, 1))
    nll = -log_probability[np.arange(len(truth)), truth].mean()
    assert result.nll == pytest.approx(nll, abs=1e-6)


@pytest.mark.parametrize("expected", [9, 11])
def test_a_wrong_count_names_both_numbers(expected: int) -> None:
    scores = Scores(CLASSES)
    logits, labels = batch(12)
    scores.update(logits, labels, torch.arange(12) < 10)
    with pytest.raises(RuntimeError, match=f"counted 10 samples .* manifest has {expected}"):
        scores.compute(expected)


def test_the_order_of_batches_and_of_samples_does_not_matter() -> None:
    logits, labels = batch(60)
    counts = torch.arange(60) % 7 > 0
    parts = list(zip(logits.split(10), labels.split(10), counts.split(10), strict=True))
    shuffled = torch.randperm(60, generator=torch.Generator().manual_seed(2))
    whole = (logits[shuffled], labels[shuffled], counts[shuffled])
    results = [scored(*parts), scored(*reversed(parts)), scored(whole)]
    for a, b in itertools.pairwise(results):
        assert a.confusion == b.confusion
        assert (a.top1, a.macro_f1, a.recall) == (b.top1, b.macro_f1, b.recall)
        assert a.nll == b.nll


def test_a_batch_of_padding_alone_changes_nothing() -> None:
    logits, labels = batch(10)
    counts = torch.ones(10, dtype=torch.bool)
    padding = (logits, labels, ~counts)
    assert scored(padding, (logits, labels, counts), padding) == everything(logits, labels)


def test_batches_of_one_weigh_as_much_as_the_others() -> None:
    logits, labels = batch(11)
    counts = torch.ones(11, dtype=torch.bool)
    parts = [(logits[a:b], labels[a:b], counts[a:b]) for a, b in [(0, 1), (1, 9), (9, 11)]]
    assert scored(*parts).nll == pytest.approx(everything(logits, labels).nll, abs=1e-12)


def test_half_precision_logits_are_scored() -> None:
    logits, labels = batch(30)
    half = logits.bfloat16()
    assert everything(half, labels) == everything(half.float(), labels)


def test_reset_forgets() -> None:
    scores = Scores(CLASSES)
    for seed in range(2):
        logits, labels = batch(8, seed)
        scores.update(logits, labels, torch.ones(8, dtype=torch.bool))
        assert scores.compute(8) == everything(logits, labels)
        scores.reset()


def test_a_perfect_and_a_hopeless_model() -> None:
    labels = torch.arange(CLASSES).repeat(3)
    perfect = everything(20.0 * F.one_hot(labels, CLASSES), labels)
    assert (perfect.top1, perfect.macro_f1, perfect.recall) == (1, 1, [1] * CLASSES)
    assert perfect.nll < 1e-6
    hopeless = everything(20.0 * F.one_hot((labels + 1) % CLASSES, CLASSES), labels)
    assert (hopeless.top1, hopeless.macro_f1, hopeless.recall) == (0, 0, [0] * CLASSES)
    assert hopeless.nll == pytest.approx(20, abs=1e-3)


def test_a_class_that_is_never_there_has_no_recall_to_lose() -> None:
    result = everything(*batch(50))
    assert result.recall[CLASSES - 1] == 0
    assert sum(result.confusion[CLASSES - 1]) == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_diverged_model_gets_no_score(value: float) -> None:
    logits, labels = batch(8)
    logits[3, 2] = value
    scores = Scores(CLASSES)
    scores.update(logits, labels, torch.ones(8, dtype=torch.bool))
    with pytest.raises(UserError, match="NaN or infinite for 1 of 8 samples"):
        scores.compute(8)
    scores.reset()
    logits, labels = batch(8)
    scores.update(logits, labels, torch.ones(8, dtype=torch.bool))
    assert scores.compute(8) == everything(logits, labels)


def test_outputs_are_in_the_order_of_the_samples_and_padding_is_none_of_them() -> None:
    logits, labels = batch(7)
    outputs = Outputs(7, logits.shape[1])
    order = torch.randperm(7)
    for part in (order[:4], order[4:]):
        padded = torch.cat([part, torch.zeros(5 - len(part), dtype=torch.int64)])
        counts = torch.arange(5) < len(part)
        outputs.update(padded, torch.where(counts[:, None], logits[padded], torch.nan),
                       labels[padded], counts)  # fmt: skip
    table, found = outputs.compute()
    assert np.array_equal(table, logits.double().softmax(1).numpy())
    assert np.array_equal(found, labels.numpy())
    outputs.reset()
    assert not outputs.logits.any() and not outputs.labels.any()


def counted(samples: int, ids: list[int]) -> Census:
    census = Census(samples)
    # In batches of three, padded with sample 0 at weight 0, as in an evaluation.
    for place in range(0, len(ids), 3):
        part = ids[place : place + 3]
        padded = torch.tensor(part + [0] * (3 - len(part)))
        census.update(padded, torch.arange(3) < len(part))
    return census


@pytest.mark.parametrize("samples", range(1, 41))
def test_each_sample_once_passes_in_any_order(samples: int) -> None:
    census = counted(samples, torch.randperm(samples).tolist())
    census.compute()
    census.reset()
    assert not census.seen.any()


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([0, 1, 3, 4], r"counted 4 samples where the manifest has 5: 1 lost, 0 .* sample 2$"),
        ([0, 1, 2, 3, 4, 1], r"counted 6 .* has 5: 0 lost, 1 counted more than once; .* sample 1$"),
        ([0, 1, 2, 2, 4], r"counted 5 .* has 5: 1 lost, 1 counted more than once; .* sample 3$"),
        ([0], r"counted 1 samples where the manifest has 5: 4 lost"),
        ([4] * 5 + [0, 1, 2, 3], r"counted 9 .* 0 lost, 1 counted more than once; .* sample 4$"),
    ],
)
def test_a_lost_or_doubled_sample_is_an_error_that_names_the_count(
    ids: list[int], message: str
) -> None:
    with pytest.raises(RuntimeError, match=message):
        counted(5, ids).compute()
