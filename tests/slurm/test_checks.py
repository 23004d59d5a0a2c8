import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pattlite_dist.slurm import checks

GOOD = {"train": 100, "val": 10, "test": 10}
RUN = Path("runs/x")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (checks.splits("s", {"train": 100}, 8, "drop"), ["s has no val split"]),
        (checks.splits("s", {"val": 10}, 8, "drop"), ["s has no train split"]),
        (checks.splits("s", GOOD, 128, "drop"), ["100 training samples", "batch of 128"]),
        (checks.batch(128, range(1, 2), 3), ["128", "3 ranks", "126 or 129", "2 rank(s)"]),
        (checks.batch(7, range(2, 3), 4), ["8 ranks", "set it to 8,", "7 rank(s)"]),
        (
            checks.batch(64, range(1, 5), 4),
            ["by 12 ranks (profile.nodes 1-4 of 4)", "set it to 48 or 96,", "8 rank(s)"],
        ),
        (checks.devices("gpu", 0), ["trainer.accelerator is gpu", "gpus_per_node is 0"]),
        (checks.devices("cpu", 2), ["trainer.accelerator is cpu", "would idle"]),
        (checks.times(5, 120).problems, ["profile.time is 5 min", "330 s", "set it to 6 or more"]),
        (checks.times(1440, 30, 10, 42.0).problems, ["signal_seconds is 30", "42.0 s"]),
        (checks.wandb("online", False), ["online without a login", "wandb login"]),
        (checks.weights("w.pt", False), ["w.pt does not exist"]),
        (checks.disk(RUN, 399_999_999, 1), ["runs/x has 400 MB free", "4 checkpoints of 100 MB"]),
        (checks.disk(RUN, 4_000_000, 3, 1_000_000), ["6 checkpoints of 1 MB"]),
        (checks.jobs(RUN, ["12", "13_1"]), ["job 12, 13_1", "pattlite cancel runs/x"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_one_line_that_says_how_to_mend_it(
    lines: list[str], words: list[str]
) -> None:
    (line,) = lines
    assert "\n" not in line and ";" in line
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    "lines",
    [
        checks.splits("s", GOOD, 100, "drop"),
        checks.splits("s", GOOD, 128, "wrap"),
        checks.batch(128, range(2, 3), 4),
        checks.batch(96, range(1, 5), 4),
        checks.batch(3, range(1, 2), 1),
        checks.devices("auto", 0),
        checks.devices("auto", 4),
        checks.devices("gpu", 1),
        checks.devices("cpu", 0),
        checks.times(6, 120).problems,
        checks.times(60, 120, 10, 119.9).problems,
        checks.times(60, 120, 10, 119.9).notes,
        checks.times(60, 120, 0).notes,
        checks.wandb("online", True),
        checks.wandb("offline", False),
        checks.wandb("disabled", False),
        checks.weights(None, False),
        checks.weights("imagenet", False),
        checks.weights("w.pt", True),
        checks.disk(RUN, 400_000_000, 1),
        checks.jobs(RUN, []),
    ],
)
def test_of_what_is_right_nothing_is_told(lines: list[str]) -> None:
    assert lines == []


def test_a_checkpoint_clock_slower_than_the_limit_is_no_more_than_a_note() -> None:
    report = checks.times(10, 120, 10)
    assert not report.problems
    assert "checkpoint_every_minutes 10" in report.notes[0]


@given(st.integers(1, 5000), st.integers(1, 6), st.integers(0, 3), st.integers(1, 8))
def test_the_numbers_that_would_fit_do_fit(size: int, least: int, more: int, local: int) -> None:
    nodes = range(least, least + more + 1)
    lines = checks.batch(size, nodes, local)
    assert bool(lines) == any(size % (count * local) for count in nodes)
    if lines:
        _, _, advice = lines[0].partition("; set it to ")
        numbers, _, ranks = advice.partition(", or use ")
        for number in numbers.split(" or "):
            assert abs(int(number) - size) < math.lcm(*nodes) * local
            assert checks.batch(int(number), nodes, local) == []
        assert checks.batch(size, range(1, 2), int(ranks.split()[0])) == []


@given(st.integers(1, 10_000), st.integers(1, 100_000))
def test_the_time_that_is_advised_is_enough_and_the_shortest(minutes: int, signal: int) -> None:
    lines = checks.times(minutes, signal).problems
    if lines:
        advised = int(lines[0].rpartition("set it to ")[2].split()[0])
        assert checks.times(advised, signal).problems == []
        assert checks.times(advised - 1, signal).problems


def test_of_many_lines_the_first_are_shown_and_the_rest_counted() -> None:
    lines = checks.shorten([str(i) for i in range(12)], "shards")
    assert lines == ["0", "1", "2", "3", "4", "… and 7 more shards"]
    assert checks.shorten(["0"], "shards") == ["0"]


def test_of_several_runs_a_line_names_those_that_it_is_true_of() -> None:
    reports = {
        "a": checks.Report(["all", "two", "all"], ["note"]),
        "b": checks.Report(["all"]),
        "c": checks.Report(["two", "all"]),
    }
    assert checks.merged(reports) == checks.Report(["all", "a, c: two"], ["a: note"])
    assert checks.merged({"a": reports["b"]}) == reports["b"]
    many = {str(i): checks.Report(["x"] if i else []) for i in range(9)}
    assert checks.merged(many).problems == ["1, 2, 3, 4, 5, … and 3 more runs: x"]
    assert checks.merged({}) == checks.Report()
