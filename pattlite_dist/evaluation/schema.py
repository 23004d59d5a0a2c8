"""`evaluation.json`: the results of an evaluation; the only place that knows its schema."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from pattlite_dist.errors import UserError
from pattlite_dist.files import parse_json, write_text
from pattlite_dist.settings import Strict

EVALUATION_NAME = "evaluation.json"
AUDIT_NAME = "audit.json"
OTHERS = "evaluation"  # of a run folder: the results on other shards than the run's own
PREDICTIONS_NAME = "predictions.npz"
View = Literal["one", "flip", "ten-crop"]
Part = Literal["val", "test", "test_clean"]
Share = float  # 0-1
ByClass = dict[str, float | None]


class Agreement(Strict):
    """How the predictions agree with the votes of several people, if the set has them.

    Attributes:
        majority: share of samples whose prediction has the most votes, ties included.
        cross_entropy: mean over samples of -sum(share of votes * log probability), nats.
    """

    majority: Share = Field(ge=0, le=1)
    cross_entropy: float = Field(ge=0)


class PartScores(Strict):
    """Scores of one part of a set; None where a share would divide by zero.

    Attributes:
        samples: their number.
        top1: accuracy.
        macro_f1: mean of the F1 of the classes that occur or are predicted.
        balanced_accuracy: mean recall of the classes that occur.
        nll: mean negative log-likelihood, nats.
        ece: expected calibration error over 15 bins of equal width.
        recall, precision, average_precision: by class.
        confusion: counts [true class][predicted class].
        agreement: with the votes.
    """

    samples: int = Field(gt=0)
    top1: Share = Field(ge=0, le=1)
    top1_interval: tuple[float, float]
    macro_f1: Share = Field(ge=0, le=1)
    macro_f1_interval: tuple[float, float]
    balanced_accuracy: Share = Field(ge=0, le=1)
    balanced_accuracy_interval: tuple[float, float]
    nll: float = Field(ge=0)
    ece: Share = Field(ge=0, le=1)
    recall: ByClass
    precision: ByClass
    average_precision: ByClass
    confusion: list[list[int]]
    agreement: Agreement | None = None

    @model_validator(mode="after")
    def _adds_up(self) -> "PartScores":
        classes = len(self.confusion)
        if any(len(row) != classes or min(row) < 0 for row in self.confusion):
            raise ValueError("confusion is not a square of counts")
        if sum(map(sum, self.confusion)) != self.samples:
            raise ValueError(f"confusion does not count {self.samples} samples")
        right = sum(self.confusion[i][i] for i in range(classes))
        if abs(right / self.samples - self.top1) > 1e-6:
            raise ValueError(f"top1 {self.top1} is not that of the confusion matrix")
        return self


class Bootstrap(Strict):
    """How the intervals were computed: percentiles over resampled samples."""

    resamples: int = Field(gt=0)
    seed: int = Field(ge=0)
    level: float = Field(gt=0, lt=1)


class PredictionsFile(Strict):
    """The predictions that all scores were computed from."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Independence(Strict):
    """How far a prediction moves with its batch: the largest difference of a probability.

    Attributes:
        samples: that were probed; each was first predicted alone.
        tolerance: allowed for rounding.
        together: in one batch.
        reordered: in the same batch, in another order.
        companions: in a batch with other samples.
    """

    samples: int = Field(gt=0)
    tolerance: float = Field(gt=0)
    together: float = Field(ge=0, le=1)
    reordered: float = Field(ge=0, le=1)
    companions: float = Field(ge=0, le=1)

    @property
    def largest(self) -> float:
        """The largest of the differences."""
        return max(self.together, self.reordered, self.companions)

    @property
    def holds(self) -> bool:
        """Whether a prediction is a function of its image alone."""
        return self.largest <= self.tolerance


class Calibrated(Strict):
    """The view `one` after calibration; before it, see `PartScores.ece`.

    Attributes:
        temperature: fitted on val, that the logits are divided by.
        ece: of each part.
    """

    temperature: float = Field(gt=0)
    ece: dict[Part, Share]


class Evaluation(Strict):
    """`evaluation.json`.

    Attributes:
        checkpoint, epoch, step: what was scored.
        manifest: fingerprint of the shards.
        labels: class names, in the order of all matrices.
        only_network: classes of the network that the shards lack: their outputs are left out.
        only_shards: classes of the shards that the network lacks: their samples are left out.
        views: that were scored, always including `one`.
        splits: scores from one view of each image.
        more_views: the same from the further views, separately.
        independence: proof that a prediction does not depend on its batch.
        calibration: if there is a val split to calibrate on.
    """

    format: Literal["pattlite-evaluation"] = "pattlite-evaluation"
    version: Literal[2] = 2
    created_by: str
    checkpoint: str
    epoch: int = Field(ge=0)
    step: int = Field(ge=0)
    manifest: str
    labels: list[str] = Field(min_length=2)
    only_network: list[str] = Field(default_factory=list)
    only_shards: list[str] = Field(default_factory=list)
    views: list[View]
    splits: dict[Part, PartScores]
    more_views: dict[View, dict[Part, PartScores]] = Field(default_factory=dict)
    independence: Independence
    bootstrap: Bootstrap
    predictions: PredictionsFile
    calibration: Calibrated | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> "Evaluation":
        if self.views != ["one", *self.more_views]:
            raise ValueError(f"views {self.views} do not match the scores")
        if not self.independence.holds:
            raise ValueError("predictions depended on their batch")
        for scores in self.of_views().values():
            if scores.keys() != self.splits.keys():
                raise ValueError("the views do not have the same splits")
            for part in scores.values():
                tables = (part.recall, part.precision, part.average_precision)
                if any(list(table) != self.labels for table in tables):
                    raise ValueError("a table by class does not have the labels as its keys")
                if len(part.confusion) != len(self.labels):
                    raise ValueError("confusion does not have a row for each label")
        return self

    def of_views(self) -> dict[View, dict[Part, PartScores]]:
        """The scores of every view, `one` first."""
        return {"one": self.splits, **self.more_views}

    def save(self, run: Path) -> None:
        """Write `evaluation.json` into `run`, whole or not at all."""
        write_text(run / EVALUATION_NAME, self.model_dump_json(indent=1) + "\n")


def read_evaluation(run: Path) -> Evaluation:
    """Read and check a run's `evaluation.json`.

    Raises:
        UserError: it is missing, not JSON, of another version, or contradicts itself.
    """
    path = run / EVALUATION_NAME
    again = f"run `pattlite evaluate {run}`"
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{run} has no {EVALUATION_NAME}; {again}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check its permissions") from error
    return parse_json(data, Evaluation, str(path), again)
