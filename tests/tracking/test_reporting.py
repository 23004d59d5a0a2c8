import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pattlite_dist.tracking import reporting
from pattlite_dist.tracking.record import REPORT_NAME
from pattlite_dist.tracking.reporting import Reports, finish_report, report_callbacks


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Runs whose report was started, by a process that writes none."""
    runs: list[Path] = []

    def command(run: Path) -> list[str]:
        runs.append(run)
        return [sys.executable, "-c", ""]

    monkeypatch.setattr(reporting, "_command", command)
    monkeypatch.setattr(reporting, "installed", lambda: True)
    monkeypatch.setattr(reporting, "_started", {})
    return runs


def end_epoch(callback: Reports) -> None:
    trainer: Any = None
    callback.on_train_epoch_end(trainer, trainer)


def test_a_report_is_written_every_five_minutes_at_most(
    tmp_path: Path, started: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    [callback] = report_callbacks(tmp_path, True)
    end_epoch(callback)
    assert started == []  # training has only begun
    now = time.monotonic()
    for seconds, count in ((301, 1), (302, 1), (500, 1), (602, 2)):
        while callback.busy():
            time.sleep(0.01)
        monkeypatch.setattr(reporting.time, "monotonic", lambda now=now + seconds: now)
        end_epoch(callback)
        assert len(started) == count
    assert reporting._started[tmp_path].wait() == 0


def test_the_next_one_waits_for_the_one_before(
    tmp_path: Path, started: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "_EVERY", 0)
    callback = Reports(tmp_path)
    monkeypatch.setattr(callback, "busy", lambda: True)
    end_epoch(callback)
    assert started == []


def test_there_is_none_if_it_is_not_wanted_or_cannot_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "installed", lambda: True)
    assert report_callbacks(tmp_path, False) == []
    monkeypatch.setattr(reporting, "installed", lambda: False)
    assert report_callbacks(tmp_path, True) == []


def test_a_report_that_is_there_is_brought_up_to_date_at_the_end(
    tmp_path: Path, started: list[Path]
) -> None:
    finish_report(tmp_path)
    assert started == []
    (tmp_path / REPORT_NAME).touch()
    finish_report(tmp_path)
    assert started == [tmp_path]


def test_training_goes_on_where_no_report_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any, **__: Any) -> "subprocess.Popen[str]":
        raise OSError("no process left")

    monkeypatch.setattr(reporting, "installed", lambda: True)
    monkeypatch.setattr(reporting, "_EVERY", 0)
    monkeypatch.setattr(reporting.subprocess, "Popen", refuse)
    (tmp_path / REPORT_NAME).touch()
    end_epoch(Reports(tmp_path))
    finish_report(tmp_path)
    assert capsys.readouterr().err.count("no process left") == 2
