from typing import Any

import pytest

from pattlite_dist.report.series import Clock, curve, epoch_length, speed, starts

H = 3600.0


def line(step: int, time: float, **values: Any) -> dict[str, Any]:
    return {"step": step, "epoch": step // 10, "time": time, **values}


EVENTS: list[dict[str, Any]] = [
    {"event": "submitted", "time": 0.0, "job": "7"},
    {"event": "started", "time": 1 * H, "step": 0, "steps_per_epoch": 10},
    {"event": "stopped", "time": 2 * H, "signal": "SIGUSR2", "step": 8},
    {"event": "started", "time": 5 * H, "step": 8, "steps_per_epoch": 10},
    {"event": "started", "time": 8 * H, "step": 10, "steps_per_epoch": 10},
    {"event": "started", "kind": "evaluate", "time": 8.5 * H},
    {"event": "failed", "time": 9 * H, "error": "no space"},
    {"event": "started", "time": 10 * H, "step": 12, "steps_per_epoch": 10},
]
LINES = [line(4, 1.5 * H), line(9, 5.5 * H), line(11, 8.75 * H), line(14, 10.25 * H)]


def test_each_start_has_its_end_and_its_reason() -> None:
    found = starts(EVENTS, LINES)
    assert [(start.begin / H, start.end / H) for start in found] == [
        (1, 2), (5, 5.5), (8, 9), (10, 10.25),
    ]  # fmt: skip
    assert [start.step for start in found] == [0, 8, 10, 12]
    assert [start.ended for start in found] == [
        "stopped by SIGUSR2", "killed, or lost its machine", "failed: no space", "",
    ]  # fmt: skip


def test_hours_without_training_do_not_count() -> None:
    clock = Clock(starts(EVENTS, LINES))
    assert clock.total == 1 + 0.5 + 1 + 0.25
    assert [clock.hour(hour * H) for hour in (0.5, 1.5, 3, 5.25, 10.25)] == [
        None, 0.5, 1, 1.25, 2.75,
    ]  # fmt: skip
    assert [clock.at(place) for place in range(4)] == [0, 1, 1.5, 2.5]
    assert clock.hour(None) is None
    assert Clock([]).total == 0 and Clock([]).hour(1.0) is None


def test_a_curve_has_the_lines_of_its_metric_only() -> None:
    lines = [line(4, 1.5 * H, loss=2.0), line(9, 5.5 * H), line(14, 10.25 * H, loss=float("nan"))]
    [point] = curve(lines, "loss", Clock(starts(EVENTS, lines)), 10)
    assert point == (5, 0.5, 0.5, 2.0)
    [point] = curve(lines, "loss", Clock([]), None)
    assert point == (5, None, None, 2.0)


def test_speed_is_measured_within_an_epoch_and_a_start() -> None:
    lines = [line(step, 100.0 + step, **{"train/loss": 1.0}) for step in (1, 3, 8, 12, 16, 18)]
    begun = starts([{"event": "started", "time": 99.0, "step": 0},
                    {"event": "started", "time": 117.0, "step": 17}], lines)  # fmt: skip
    found = speed(lines, 64, begun, 10)
    assert [(point.step, point.value) for point in found] == [(4, 64), (9, 64), (17, 64)]


@pytest.mark.parametrize(
    ("events", "lines", "steps"),
    [
        (EVENTS, [], 10),
        ([], [line(29, 1.0, **{"val/top1": 0.5})], 10),
        ([], [line(29, 1.0)], None),
    ],
    ids=["history", "validation", "unknown"],
)
def test_the_length_of_an_epoch(events: Any, lines: Any, steps: int | None) -> None:
    assert epoch_length(events, lines) == steps
