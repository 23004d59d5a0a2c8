import json
from pathlib import Path
from typing import Any

import pytest

from pattlite_dist.cli import main
from pattlite_dist.tracking.parts import (
    PARTS,
    metrics_of,
    straggler,
    totals,
    totals_by_rank,
)
from tests.conftest import tiny
from tests.starts import Zygote
from tests.train.faults import SLOW, Fault


def table(*waits: float, own: float = 1.0) -> list[list[float]]:
    """Seconds by rank and part: of each rank its wait in the reduction, and one in computing."""
    known = {"compute": own, "validate": 2.0}
    return [
        [wait if part == "reduce" else known.get(part, 0.0) for part in PARTS] for wait in waits
    ]


def line(*waits: float, steps: int = 10) -> dict[str, Any]:
    return metrics_of(table(*waits), steps, 64)


def test_a_line_has_the_mean_over_the_ranks_of_one_step_and_each_ranks_own() -> None:
    found = line(0.5, 0.1)
    assert (found["time/compute"], found["time/reduce"]) == (0.1, 0.03)
    assert found["ranks/reduce"] == [0.05, 0.01]
    assert found["train/images_per_second"] == pytest.approx(640 / 1.3, abs=0.1)
    assert not [name for name in line(0.5) if name.startswith("ranks/")]


def test_the_rank_for_which_the_others_wait_is_named_with_what_it_costs() -> None:
    assert straggler([line(0.4, 0.4, 0.0, 0.4)] * 3) == (2, pytest.approx(0.4 / 1.3, abs=1e-3))
    assert str(straggler([line(0.5, 0.0)])) == "rank 1 (40 %)"


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [line(3.0)],
        [line(0.10, 0.05)],
        [line(0.5, 0.0), line(0.0, 0.5)] * 4,
        [{"time/steps": 3, "ranks/reduce": ["x", 1]}, {"ranks/reduce": 1}],
    ],
    ids=["no line", "one rank", "little", "one after the other", "damaged"],
)
def test_none_is_named_who_is_not_always_slow_or_costs_little(lines: list[Any]) -> None:
    assert straggler(lines) is None


def test_only_the_last_lines_count() -> None:
    assert straggler([line(0.5, 0.0)] * 9 + [line(0.1, 0.1)] * 20) is None


def test_totals_are_of_all_steps_and_of_the_newest_number_of_ranks() -> None:
    lines = [{"train/loss": 1.0}, line(0.5), line(0.5, 0.1), line(0.2, 0.3, steps=5)]
    assert totals(lines)["reduce"] == pytest.approx(0.5 + 0.3 + 0.25)
    assert [rank["reduce"] for rank in totals_by_rank(lines)] == pytest.approx([0.7, 0.4])
    assert totals([{"train/loss": 1.0}]) == {}
    assert totals_by_rank(lines[:2]) == []


@pytest.mark.slow
def test_a_rank_that_is_slower_is_named(
    zygote: Zygote, face_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = tiny(face_shards, tmp_path, trainer__epochs=1, trainer__log_every_steps=1,
                   trainer__global_batch=6)  # fmt: skip
    slow = Fault(SLOW, 0, detail=150, rank=1)
    start = zygote.with_small_networks().start(options, 3, slow)
    assert start.ended, start.log
    assert main(["status", str(tmp_path / "tiny"), "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert row["straggler"].startswith("rank 1 (")
