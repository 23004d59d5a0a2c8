import json
import os
import signal
import threading
from pathlib import Path

import pytest

from pattlite_dist.runtime.signals import Signals
from pattlite_dist.tracking import claim as claims
from pattlite_dist.tracking import lock as locks
from pattlite_dist.tracking.claim import CLAIM_NAME, claim, is_claimed, is_older, look_out
from pattlite_dist.tracking.lock import RunLock


@pytest.fixture(autouse=True)
def _job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ARRAY_JOB_ID", "ARRAY_TASK_ID"):
        monkeypatch.delenv(f"SLURM_{name}", raising=False)
    start(monkeypatch, 1)


def start(monkeypatch: pytest.MonkeyPatch, restart: int, job: str = "17") -> None:
    monkeypatch.setenv("SLURM_JOB_ID", job)
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))


def test_only_a_newer_start_of_the_same_job_has_a_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not is_claimed(tmp_path)
    claim(tmp_path)
    for restart, job, claimed in ((0, "17", True), (1, "17", False), (2, "17", False),
                                  (0, "18", False)):  # fmt: skip
        start(monkeypatch, restart, job)
        assert is_claimed(tmp_path) is claimed
    start(monkeypatch, 0)
    for text in ("", "[]", "{}", '{"job": "17"}', '{"job": "17", "restart": "2"}'):
        (tmp_path / CLAIM_NAME).write_text(text)
        assert not is_claimed(tmp_path)


def test_only_an_older_start_of_the_same_job_is_asked() -> None:
    assert is_older({"job": "17", "restart": 0})
    for holder in ({"job": "17", "restart": 1}, {"job": "16", "restart": 0}, {"job": "17"}, {}):
        assert not is_older(holder)


def test_the_newer_start_asks_waits_and_takes_the_folder_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The older one stops as for SIGTERM, at the end of its step."""
    monkeypatch.setattr(locks, "_CLAIM_SECONDS", 0.0)
    monkeypatch.setattr(claims, "_EVERY", 0.01)
    old = {"job": "17", "restart": 0, "host": "n1", "pid": 4}
    signals, over = Signals(), threading.Event()
    newer = RunLock(tmp_path)
    tries: list[bool] = []

    def held() -> bool:
        """By the older start, until it has been asked."""
        if len(tries) == 1:
            (tmp_path / "run.lock").write_text(json.dumps(old))
        tries.append(signals.got != 0)
        if (tmp_path / CLAIM_NAME).exists() and not signals.got:
            with pytest.MonkeyPatch.context() as elsewhere:
                start(elsewhere, 0)
                assert is_claimed(tmp_path)
                signals.replace()
        return tries[-1]

    monkeypatch.setattr(newer, "_try", held)
    newer.acquire()
    assert signals.replaced and signals.got == signal.SIGTERM
    assert "an earlier start of this job 17 (process 4 on n1)" in capsys.readouterr().err
    assert not (tmp_path / CLAIM_NAME).exists()
    assert newer.holder()["restart"] == 1
    newer.release()
    over.set()


def test_who_holds_the_folder_looks_for_claims_until_it_is_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "_EVERY", 0.01)
    claim(tmp_path)
    start(monkeypatch, 0)
    asked, over = threading.Event(), threading.Event()
    look_out(tmp_path, over, asked.set)
    assert asked.wait(10)
    os.environ.pop("SLURM_JOB_ID")
    never = threading.Event()
    look_out(tmp_path, over, never.set)
    assert not never.is_set()
