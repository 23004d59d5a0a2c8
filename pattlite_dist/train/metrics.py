"""Scores of one split, independent of the number of processes."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F
from torchmetrics import MeanMetric, Metric, MetricCollection, SumMetric
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassRecall,
)

from pattlite_dist.errors import UserError

_PADDING = -1


@dataclass(frozen=True)
class Result:
    """Scores of one split.

    Attributes:
        samples: number counted.
        top1: accuracy, 0-1.
        macro_f1: mean of the classes' F1, 0-1.
        nll: mean negative log-likelihood, nats.
        recall: per class, 0-1.
        confusion: counts [true class][predicted class].
    """

    samples: int
    top1: float
    macro_f1: float
    nll: float
    recall: list[float]
    confusion: list[list[int]]


class Census(Metric):
    """How often each sample of a split was counted: proves that it was exactly once.

    Args:
        samples: in the split; takes one byte of memory each.
    """

    full_state_update = False
    seen: torch.Tensor

    def __init__(self, samples: int) -> None:
        super().__init__()
        self.add_state("seen", torch.zeros(samples, dtype=torch.uint8), dist_reduce_fx="sum")

    def update(self, ids: torch.Tensor, counts: torch.Tensor) -> None:
        """Add a batch: ids, int64 [n], and whether each counts, bool [n]."""
        self.seen.index_add_(0, ids, counts.to(torch.uint8))

    def compute(self) -> int:
        """Number of samples counted over all ranks. Collective.

        Raises:
            RuntimeError: samples were lost or counted twice; the message says how many, and gives
                one.
        """
        samples, total = len(self.seen), int(self.seen.sum(dtype=torch.int64))
        lost, doubled = (self.seen == 0).nonzero(), (self.seen > 1).nonzero()
        if len(lost) or len(doubled):
            first = int((lost if len(lost) else doubled)[0])
            raise RuntimeError(
                f"evaluation counted {total} samples where the manifest has {samples}: "
                f"{len(lost)} lost, {len(doubled)} counted more than once; "
                f"for example, sample {first}"
            )
        return total


class Outputs(Metric):
    """The outputs for each sample of a split, in order.

    Each rank fills in its own rows of a table of zeros, so the sum over ranks changes none of them.

    Args:
        samples: in the split.
        classes: of the network.
    """

    full_state_update = False
    logits: torch.Tensor
    labels: torch.Tensor

    def __init__(self, samples: int, classes: int) -> None:
        super().__init__()
        self.add_state("logits", torch.zeros(samples, classes), dist_reduce_fx="sum")
        self.add_state("labels", torch.zeros(samples, dtype=torch.int64), dist_reduce_fx="sum")

    def update(
        self, ids: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor, counts: torch.Tensor
    ) -> None:
        """Add a batch: ids, logits [n, classes], labels, and whether each counts, bool [n]."""
        logits = torch.where(counts[:, None], logits.float(), 0)
        self.logits.index_add_(0, ids, logits)
        self.labels.index_add_(0, ids, torch.where(counts, labels, 0))

    def compute(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Probabilities [samples, classes] and labels [samples]. Collective."""
        return self.logits.double().softmax(1).cpu().numpy(), self.labels.cpu().numpy()


class Scores(nn.Module):
    """Accumulates predictions; counts are integers, so their sum over ranks is exact."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.counts = MetricCollection(
            {
                "top1": MulticlassAccuracy(classes, average="micro", ignore_index=_PADDING),
                "macro_f1": MulticlassF1Score(classes, average="macro", ignore_index=_PADDING),
                "recall": MulticlassRecall(classes, average="none", ignore_index=_PADDING),
                "confusion": MulticlassConfusionMatrix(classes, ignore_index=_PADDING),
            }
        )
        self.nll = MeanMetric().set_dtype(torch.float64)
        self.unusable = SumMetric(nan_strategy="error")

    def update(self, logits: torch.Tensor, labels: torch.Tensor, counts: torch.Tensor) -> None:
        """Add a batch: logits [n, classes], labels int64 [n], and whether each counts, bool [n]."""
        logits = logits.float()
        # Only counted here, not raised: one rank may have such a sample while the others have
        # none, and all of them have to stop.
        self.unusable.update((~logits.isfinite().all(1) & counts).sum())
        logits = logits.nan_to_num()
        self.counts.update(logits, torch.where(counts, labels, _PADDING))
        nll = F.cross_entropy(logits, labels, reduction="none").double()
        # Rounded to 2^-20 nats, so that the sum is exact and independent of its order.
        nll = (nll * 2**20).round() / 2**20
        self.nll.update(nll, counts.double())

    def compute(self, expected: int) -> Result:
        """The scores over all ranks. Collective.

        Args:
            expected: number of samples that must have been counted.

        Raises:
            UserError: a logit was NaN or infinite; no checkpoint should be chosen by such scores.
            RuntimeError: a sample was lost or counted twice.
        """
        unusable = int(self.unusable.compute())
        if unusable:
            raise UserError(
                f"the network's outputs are NaN or infinite for {unusable:,} of {expected:,} "
                "samples: training has diverged; train under another name with a lower optim.lr, "
                "or with optim.clip_norm"
            )
        values = self.counts.compute()
        samples = int(values["confusion"].sum())
        if samples != expected:
            raise RuntimeError(
                f"evaluation counted {samples} samples where the manifest has {expected}"
            )
        return Result(
            samples,
            float(values["top1"]),
            float(values["macro_f1"]),
            float(self.nll.compute()),
            [float(value) for value in values["recall"]],
            values["confusion"].int().tolist(),
        )

    def reset(self) -> None:
        """Clear everything accumulated."""
        self.counts.reset()
        self.nll.reset()
        self.unusable.reset()


def surest_mistakes(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64], most: int
) -> NDArray[np.int64]:
    """The samples whose wrong prediction is the surest, surest first; ties in order.

    Args:
        probabilities: float [n, classes].
        labels: int64 [n].
        most: how many at most.
    """
    (wrong,) = np.nonzero(probabilities.argmax(1) != labels)
    order = np.argsort(-probabilities[wrong].max(1), kind="stable")
    found: NDArray[np.int64] = wrong[order[:most]]
    return found
