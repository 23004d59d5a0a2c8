import csv
import json
from pathlib import Path
from typing import Any

import pytest

from pattlite_dist.errors import UserError
from pattlite_dist.tracking.loggers import require_loggers, table_of, tensorboard_logger
from pattlite_dist.tracking.record import RECORD_NAME
from pattlite_dist.tracking.settings import TrackingConfig


def test_a_table_has_a_row_for_each_step_and_no_lists() -> None:
    lines: list[dict[str, Any]] = [
        {"step": 0, "epoch": 0, "train/loss": 1.5, "time": 1.0},
        {"step": 0, "ranks/reduce": [1, 2], "time/steps": 1, "time": 1.5},
        {"step": 2, "epoch": 1, "val/top1": 0.5, "time": 2.0},
    ]
    first, second = csv.DictReader(table_of(lines).splitlines())
    assert first == {"step": "0", "epoch": "0", "time": "1.5", "time/steps": "1",
                     "train/loss": "1.5", "val/top1": ""}  # fmt: skip
    assert (second["step"], second["val/top1"], second["train/loss"]) == ("2", "0.5", "")


def test_what_is_not_installed_is_said_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    require_loggers(["wandb", "csv"])
    with pytest.raises(UserError, match=r"pip install 'pattlite_dist\[tensorboard\]'"):
        require_loggers(["tensorboard"])


def test_tensorboard_has_each_step_once_whatever_was_repeated(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = TrackingConfig(loggers=("tensorboard",))
    assert tensorboard_logger(config, tmp_path, main=False) is None
    for first, last in ((0, 6), (4, 8)):
        kept = [{"step": step, "train/loss": 1 / (step + 1), "time": 100.0 * step}
                for step in range(first)]  # fmt: skip
        (tmp_path / RECORD_NAME).write_text("".join(json.dumps(line) + "\n" for line in kept))
        logger = tensorboard_logger(config, tmp_path, main=True)
        assert logger is not None
        for step in range(first, last):
            logger.log_metrics({"train/loss": 1 / (step + 1)}, step)
        logger.finalize("success")
    found = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    points = [(event.step, event.value) for event in found.Scalars("train/loss")]
    assert points == [(step, pytest.approx(1 / (step + 1))) for step in range(8)]
