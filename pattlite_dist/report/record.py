"""What a run's folder holds, read for a report; what is damaged in it is left out, and said."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pattlite_dist.config import Config, flat
from pattlite_dist.errors import UserError
from pattlite_dist.evaluation.schema import AUDIT_NAME, EVALUATION_NAME
from pattlite_dist.report.series import Clock, Line, Start, epoch_length, starts
from pattlite_dist.slurm.status import Row, survey
from pattlite_dist.slurm.sweep import load_sweep
from pattlite_dist.tracking.folder import load_config
from pattlite_dist.tracking.history import read
from pattlite_dist.tracking.record import RECORD_NAME, read_metrics

if TYPE_CHECKING:
    from pattlite_dist.evaluation.findings import Audit
    from pattlite_dist.evaluation.predictions import Predictions
    from pattlite_dist.evaluation.schema import Evaluation


@dataclass(frozen=True)
class RunRecord:
    """A run.

    Attributes:
        run: folder.
        name: that tells it from the others on the page.
        row: its state, as `pattlite status` shows it.
        settings: its configuration by dotted key; empty if it cannot be read.
        lines: of its record, oldest first.
        begun: its starts, oldest first.
        steps_per_epoch: None if unknown.
        evaluation: None if it was not evaluated.
        predictions: that the evaluation was computed from, by split; empty if there are none.
        audit: None if it was not audited.
        swept: the values that its sweep gave it, by dotted key; empty outside of one.
        notes: what was left out and why, a line each.
    """

    run: Path
    name: str
    row: Row
    settings: dict[str, Any] = field(default_factory=dict)
    lines: Sequence[Line] = ()
    begun: Sequence[Start] = ()
    steps_per_epoch: int | None = None
    evaluation: "Evaluation | None" = None
    predictions: "dict[Any, Predictions]" = field(default_factory=dict)
    audit: "Audit | None" = None
    swept: dict[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def clock(self) -> Clock:
        """Of its training."""
        return Clock(self.begun)

    @property
    def batch(self) -> int | None:
        """Samples of a step, over all ranks."""
        size = self.settings.get("trainer.global_batch")
        return size if isinstance(size, int) else None

    def best(self) -> Line | None:
        """The line of the best validation, the first of equals; None before the first."""
        scored = [line for line in self.lines if isinstance(line.get("val/top1"), float)]
        return max(scored, key=lambda line: line["val/top1"], default=None)


def read_records(runs: Sequence[Path]) -> list[RunRecord]:
    """Read run folders; SLURM is asked once for all of them."""
    names = short_names(runs)
    rows = survey(runs)
    return [_read(run, name, row) for run, name, row in zip(runs, names, rows, strict=True)]


def short_names(runs: Sequence[Path]) -> list[str]:
    """Names that tell runs apart: of their folders or, if two are equal, the ends of their paths.

    A run that is given twice has one name twice.
    """
    paths = [run.resolve() for run in runs]
    most = max((len(path.parts) for path in paths), default=1)
    for length in range(1, most + 1):
        names = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(names)) == len(set(paths)):
            return names
    return [str(path) for path in paths]


def _read(run: Path, name: str, row: Row) -> RunRecord:
    notes: list[str] = []
    try:
        lines = [line for line in read_metrics(run / RECORD_NAME) if _is_line(line)]
    except OSError as error:
        lines = []
        notes.append(f"left out: {run / RECORD_NAME}: {error.strerror or error}")
    events = read(run)
    settings: dict[str, Any] = {}
    try:
        settings = flat(load_config(run).model_dump(mode="json"))
    except UserError as error:
        notes.append(f"left out: {error}")
    evaluation, predictions = _evaluation(run, notes)
    return RunRecord(
        run=run,
        name=name,
        row=row,
        settings=settings,
        lines=lines,
        begun=starts(events, lines),
        steps_per_epoch=epoch_length(events, lines),
        evaluation=evaluation,
        predictions=predictions,
        audit=_audit(run, notes),
        swept=_swept(run, notes),
        notes=notes,
    )


def _swept(run: Path, notes: list[str]) -> dict[str, str]:
    try:
        sweep = load_sweep(run.resolve().parent)
    except UserError as error:
        notes.append(f"left out: {error}")
        return {}
    points = sweep.points if sweep else []
    return next((point.values for point in points if point.name == run.resolve().name), {})


def _is_line(line: Any) -> bool:
    return isinstance(line, dict) and isinstance(line.get("step"), int)


def _evaluation(run: Path, notes: list[str]) -> "tuple[Evaluation | None, dict[Any, Predictions]]":
    """Scores and, where they are still there, the predictions that they were computed from."""
    from pattlite_dist.evaluation.schema import read_evaluation

    if not (run / EVALUATION_NAME).exists():
        return None, {}
    try:
        found = read_evaluation(run)
    except UserError as error:
        notes.append(f"left out: {error}")
        return None, {}
    from pattlite_dist.evaluation.predictions import load_predictions

    try:
        file = found.predictions
        return found, dict(load_predictions(run / file.name, file.sha256, found.views))
    except UserError as error:
        notes.append(f"left out: reliability and precision-recall: {error}")
        return found, {}


def _audit(run: Path, notes: list[str]) -> "Audit | None":
    if not (run / AUDIT_NAME).exists():
        return None
    from pattlite_dist.evaluation.findings import read_audit

    try:
        return read_audit(run)
    except UserError as error:
        notes.append(f"left out: {error}")
        return None


def defaults() -> dict[str, Any]:
    """The settings of a configuration in which nothing was chosen, by dotted key."""
    return flat(Config().model_dump(mode="json"))
