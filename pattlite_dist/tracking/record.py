"""The run's own record, `metrics.jsonl`: read, and rewound when steps are repeated."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pattlite_dist.files import read_json_lines, write_text

RECORD_NAME = "metrics.jsonl"
REPORT_NAME = "report.html"  # drawn from it


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`; a last line cut off by a crash is skipped."""
    return read_json_lines(path) if path.exists() else []


_OF_STEPS = ("train/loss", "time/steps")  # one of these is in each line of a step itself


def rewind_metrics(path: Path, step: int, scored: bool = True) -> None:
    """Remove the lines that a resumed run will write again.

    Args:
        path: of the record.
        step: steps that the run has taken.
        scored: whether the end of the epoch, if it ends there, is behind the run.
    """

    def stays(line: Mapping[str, Any]) -> bool:
        if line["step"] == step - 1 and not scored:
            return any(key in line for key in _OF_STEPS)
        return bool(line["step"] < step)

    if path.exists():
        kept = [line for line in read_metrics(path) if stays(line)]
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))


def best_on_val(lines: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The line of the validation with the highest top-1, the first of equals; None without any."""
    scored = [line for line in lines if "val/top1" in line]
    return max(scored, key=lambda line: line["val/top1"], default=None)


def scalars(line: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a line that are numbers: not what is listed by rank, nor its step and time."""
    return {
        key: value
        for key, value in line.items()
        if key not in ("step", "time") and isinstance(value, int | float)
    }
