import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pattlite_dist.config import parse_config, to_yaml
from pattlite_dist.errors import UserError
from pattlite_dist.slurm.facts import Facts, find_runs, read_facts, sum_up
from pattlite_dist.tracking.history import Standing, append

STARTED = Standing(
    "12", True, "started", starts=1, epochs=3, steps_per_epoch=10, begin=100.0, end=100.0
)


def record(first: int, last: int, begin: float, seconds: float) -> list[dict[str, Any]]:
    """Lines of the steps from `first` to `last`, counted from 0, every one so many seconds."""
    return [
        {"step": step, "epoch": step // 10, "train/loss": 2.0, "time": begin + i * seconds}
        for i, step in enumerate(range(first, last + 1))
    ]


def make_run(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(parse_config({"trainer": {"epochs": 7}}, "")))
    return folder


def test_runs_are_found_up_to_two_levels_deep_in_natural_order(tmp_path: Path) -> None:
    names = ["a", "sweep/seed-2", "sweep/seed-10", "sweep/seed-10/pinned/inner", "x/y/z"]
    made = {name: make_run(tmp_path / name) for name in names}
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("")
    found = [made["a"], made["sweep/seed-2"], made["sweep/seed-10"]]
    assert find_runs([tmp_path]) == found
    assert find_runs([tmp_path / "sweep"]) == found[1:]
    assert find_runs([made["a"], tmp_path, made["a"]]) == found
    assert find_runs([tmp_path / "x"]) == [made["x/y/z"]]


def test_a_history_alone_makes_a_run_folder(tmp_path: Path) -> None:
    append(tmp_path, "submitted", job="12")
    assert find_runs([tmp_path]) == [tmp_path]


@pytest.mark.parametrize(("name", "what"), [("none", "not a folder"), ("empty", "contains no run")])
def test_a_folder_without_runs_is_told(tmp_path: Path, name: str, what: str) -> None:
    (tmp_path / "empty" / "a" / "b" / "c").mkdir(parents=True)
    with pytest.raises(UserError, match=f"{name} .*{what}"):
        find_runs([tmp_path / name])


def test_a_run_that_was_never_started_is_known_by_its_configuration(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    assert read_facts(run) == Facts(str(run), Standing(), epoch=0, epochs=7)


def test_what_is_damaged_is_not_known(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("trainer: [")
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 3, "time": 1.0}\n\xff\xfe\n')
    (tmp_path / "evaluation.json").write_text('{"splits": []}')
    facts = read_facts(tmp_path)
    assert (facts.epochs, facts.steps, facts.test_top1) == (None, 4, None)


def test_a_whole_folder_is_read(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    append(run, "started", step=0, ranks=2, epochs=3, steps_per_epoch=10, time=100.0)
    lines = [
        *record(0, 9, 101, 2),
        {"step": 9, "val/top1": 0.5, "time": 130.0},
        *record(10, 19, 132, 2),
        {"step": 19, "val/top1": 0.625, "time": 160.0},
        {"step": 29, "val/top1": 0.375, "time": 190.0},
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"st')
    splits = {"val": {"top1": 0.625}, "test": {"top1": 0.75}}
    (run / "evaluation.json").write_text(json.dumps({"splits": splits}))
    facts = read_facts(run)
    assert (facts.steps, facts.epoch, facts.epochs) == (30, 3, 3)
    assert (facts.val_top1, facts.test_top1) == (0.625, 0.75)
    assert facts.seen == 190.0


FIRST, SECOND = (f"epoch=000{i}-step=000000{i}0-top1=0.{i}000.ckpt" for i in (1, 2))


@pytest.mark.parametrize(
    ("scored", "kept", "best", "stale"),
    [
        (FIRST, [FIRST], 0.1, False),
        (FIRST, [FIRST, SECOND], 0.2, True),
        (FIRST, [SECOND], 0.2, True),  # it is gone
        (SECOND, [FIRST, SECOND], 0.2, False),
        (SECOND, [FIRST], 0.1, True),  # the run began again
        ("mine.ckpt", [FIRST], 0.1, True),
        (FIRST, [], 0.1, False),  # a finished run without its checkpoints
        (FIRST, [], 0.2, True),
        ("mine.ckpt", [], 0.2, False),
        (None, [FIRST], 0.1, False),
        (7, [FIRST], 0.1, False),
    ],
)
def test_a_score_is_stale_if_another_checkpoint_is_the_best(
    scored: Any, kept: list[str], best: float, stale: bool, tmp_path: Path
) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name in kept:
        (tmp_path / "checkpoints" / name).touch()
    content = {"checkpoint": scored, "splits": {"test": {"top1": 0.5}}}
    (tmp_path / "evaluation.json").write_text(json.dumps(content))
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 9, "val/top1": {best}}}\n')
    facts = read_facts(tmp_path)
    assert (facts.test_top1, facts.test_of) == (0.5, scored if stale else None)


@pytest.mark.parametrize(
    ("steps", "epoch"), [(0, 0), (1, 1), (9, 1), (10, 1), (11, 2), (20, 2), (30, 3)]
)
def test_the_epoch_is_that_of_the_last_step(steps: int, epoch: int) -> None:
    assert sum_up("r", STARTED, record(0, steps - 1, 100, 1)).epoch == epoch


def test_without_steps_per_epoch_the_record_tells_the_epoch() -> None:
    assert sum_up("r", Standing(), record(0, 14, 100, 1)).epoch == 2
    assert sum_up("r", Standing(step=14), []).epoch is None


def test_a_stop_tells_the_steps_that_the_record_does_not_hold_yet() -> None:
    assert sum_up("r", STARTED._replace(step=17), record(0, 14, 100, 1)).steps == 17
    assert sum_up("r", STARTED._replace(step=10), record(0, 14, 100, 1)).steps == 15


def test_the_speed_is_that_of_an_epoch_with_its_validation() -> None:
    slow, fast = record(0, 9, 100, 50), record(10, 24, 700, 2)
    fast[10:] = [{**line, "time": line["time"] + 8} for line in fast[10:]]  # validation, 8 s
    assert sum_up("r", STARTED, slow + fast).step_seconds == pytest.approx((10 * 2 + 8) / 10)


def test_a_wait_between_two_starts_does_not_count() -> None:
    lines = record(0, 4, 100, 1) + record(5, 9, 5000, 3)
    assert sum_up("r", STARTED._replace(begin=4990.0), lines).step_seconds == pytest.approx(3)


@pytest.mark.parametrize("lines", [[], record(3, 3, 101, 1), record(0, 5, 50, 1)])
def test_there_is_no_speed_before_two_lines_of_this_start(lines: list[dict[str, Any]]) -> None:
    assert sum_up("r", STARTED, lines).step_seconds is None


def test_lines_that_are_none_and_numbers_that_are_none_are_left_out() -> None:
    odd = [3, None, [], {"step": "x"}, {"step": 0, "val/top1": float("nan"), "time": None}]
    facts = sum_up("r", STARTED, [*odd, *record(1, 3, 101, 1)])
    assert (facts.steps, facts.val_top1, facts.step_seconds) == (4, None, 1.0)


value = st.none() | st.integers(-5, 500) | st.floats() | st.text(max_size=3) | st.booleans()
line = st.none() | st.dictionaries(st.sampled_from(["step", "epoch", "time", "val/top1"]), value)


@given(st.lists(line), st.integers(0, 50), st.none() | st.integers(0, 20))
def test_any_record_can_be_summed_up(lines: list[Any], step: int, per_epoch: int | None) -> None:
    facts = sum_up("r", STARTED._replace(step=step, steps_per_epoch=per_epoch), lines)
    assert facts.steps >= step
    assert json.dumps(facts, allow_nan=False)
    assert facts.step_seconds is None or facts.step_seconds >= 0
