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


def rewind_metrics(path: Path, step: int) -> None:
    """Remove the lines of steps that a resumed run will repeat."""
    if path.exists():
        kept = [line for line in read_metrics(path) if line["step"] < step]
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
