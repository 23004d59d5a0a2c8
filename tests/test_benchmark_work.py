"""`benchmarks/work.py`, on records written here."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pattlite_dist.config import Config, to_yaml
from pattlite_dist.report.record import read_records
from tests.benchmarked import benchmark


@pytest.fixture
def script() -> Iterator[Any]:
    with benchmark("work") as module:
        yield module


def test_a_goal_is_reached_by_the_first_validation_that_has_it(script: Any) -> None:
    done = [script.Work(0.5, 1, 10), script.Work(0.6, 2, 20), script.Work(0.55, 3, 30)]
    assert script.reached(done, 0.6) == done[1]
    assert script.reached(done, 0.5) == done[0]
    assert script.reached(done, 0.61) is None


def test_a_goal_that_was_not_reached_is_a_dash(script: Any) -> None:
    done = [script.Work(0.5, 1.04, 1_000), script.Work(0.6, 2.06, 2_000)]
    head, one, none = script.table({"one": done, "none": []}, [60.0, 64.5])
    assert dict(zip(head, one, strict=True)) == {
        "run": "one", "best %": "60.0", "minutes to 60 %": "2.1", "images to 60 %": "2,000",
        "minutes to 64.5 %": "-", "images to 64.5 %": "-",
    }  # fmt: skip
    assert none == ["none", "-", "-", "-", "-", "-"]


def test_the_time_between_two_starts_is_no_work(script: Any, tmp_path: Path) -> None:
    events = [
        {"event": "started", "time": 1000.0, "restart": 0, "step": 1},
        {"event": "stopped", "time": 1060.0, "restart": 0, "step": 10},
        {"event": "started", "time": 9000.0, "restart": 1, "step": 11},
        {"event": "finished", "time": 9120.0, "restart": 1, "step": 20},
    ]
    lines: list[dict[str, Any]] = [
        {"step": 9, "epoch": 0, "val/top1": 0.5, "time": 1050.0},
        {"step": 19, "epoch": 1, "val/top1": 0.6, "time": 9060.0},
    ]
    run = tmp_path / "run"
    run.mkdir()
    (run / "history.jsonl").write_text("".join(json.dumps(one) + "\n" for one in events))
    (run / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    (run / "config.yaml").write_text(
        to_yaml(Config.model_validate({"trainer": {"global_batch": 8}}))
    )
    (record,) = read_records([run])
    first, second = script.course(record)
    assert (first.top1, first.images, second.top1, second.images) == (0.5, 80, 0.6, 160)
    assert first.minutes == pytest.approx(50 / 60, abs=0.01)
    assert second.minutes == pytest.approx((60 + 60) / 60, abs=0.2)
