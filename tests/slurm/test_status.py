import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pattlite_dist.commands.status import add_options, work
from pattlite_dist.errors import UserError
from pattlite_dist.slurm.facts import Facts, find_runs
from pattlite_dist.slurm.jobinfo import ENDED, JobInfo
from pattlite_dist.slurm.status import Row, duration, make_row, survey, table, training_job
from pattlite_dist.tracking.history import Standing, append, standing
from tests.slurm.conftest import Cluster

NOW = 1000.0


def facts(last: str, **more: Any) -> Facts:
    """Of a run of 30 epochs of 100 steps, 250 of them done in 2 s each, as job 12."""
    told = Standing("12", True, last, starts=1, step=250, epochs=30, steps_per_epoch=100, end=940.0)
    own = {key: more.pop(key) for key in [*more] if key not in Facts._fields}
    known = Facts("runs/a", told._replace(**own), 250, 3, 30, step_seconds=2.0, seen=940.0)
    return known._replace(**more)


def job(state: str, **more: Any) -> JobInfo:
    return JobInfo("12", "12", state)._replace(**more)


@pytest.mark.parametrize(
    ("last", "info", "answered", "state", "reason"),
    [
        # SLURM knows the job.
        ("submitted", job("PENDING", reason="Resources"), True, "pending", "Resources"),
        ("first_step", job("RUNNING"), True, "running", ""),
        ("requeued", job("PENDING", reason="BeginTime"), True, "pending", "BeginTime"),
        ("stopped", job("COMPLETING"), True, "completing", ""),
        ("cancelled", job("COMPLETING"), True, "completing", ""),
        ("first_step", job("LEVITATING"), True, "levitating", ""),
        ("finished", job("COMPLETED"), True, "finished", ""),
        ("finished", job("COMPLETING"), True, "finished", ""),
        ("finished", job("FAILED", exit_code=1), True, "finished", ""),
        ("first_step", job("COMPLETED"), True, "completed", ""),
        ("stopped", job("COMPLETED"), True, "stopped", "why"),
        ("failed", job("FAILED", exit_code=1, reason="NonZeroExitCode"), True, "failed", "why"),
        ("first_step", job("FAILED", exit_code=137, reason="x"), True, "failed", "exit 137"),
        ("first_step", job("TIMEOUT", reason="TimeLimit"), True, "timeout", "TimeLimit"),
        ("submitted", job("CANCELLED", reason="Resources"), True, "cancelled", ""),
        # SLURM has forgotten it.
        ("finished", None, True, "finished", ""),
        ("failed", None, True, "failed", "why"),
        ("stopped", None, True, "stopped", "why"),
        ("cancelled", None, True, "cancelled", "why"),
        ("submitted", None, True, "lost", "wrote 1:00 ago"),
        ("started", None, True, "lost", "wrote 1:00 ago"),
        ("first_step", None, True, "lost", "wrote 1:00 ago"),
        ("requeued", None, True, "lost", "wrote 1:00 ago"),
        # There is no SLURM.
        ("finished", None, False, "finished", ""),
        ("failed", None, False, "failed", "why"),
        ("first_step", None, False, "unknown", "wrote 1:00 ago"),
        ("submitted", None, False, "unknown", "wrote 1:00 ago"),
    ],
)
def test_the_state_of_a_run(
    last: str, info: JobInfo | None, answered: bool, state: str, reason: str
) -> None:
    why = "why" if last in ("failed", "stopped", "cancelled") else ""
    row = make_row(facts(last, reason=why), info, answered, NOW)
    assert (row.state, row.reason) == (state, reason)


def test_a_run_without_any_history_is_unknown() -> None:
    row = make_row(Facts("runs/a"), None, True, NOW)
    assert (row.state, row.reason, row.job) == ("unknown", "", None)


def test_a_run_that_was_started_outside_of_slurm_is_not_lost() -> None:
    row = make_row(facts("first_step", job=None, submitted=False), None, True, NOW)
    assert (row.state, row.reason) == ("unknown", "wrote 1:00 ago")


@pytest.mark.parametrize(
    ("last", "state"), [("first_step", "running"), ("failed", "failed"), ("stopped", "stopped")]
)
def test_an_interactive_job_outlives_the_run_in_it(last: str, state: str) -> None:
    assert make_row(facts(last, submitted=False), job("RUNNING"), True, NOW).state == state


def test_restarts_are_the_most_that_anybody_counted() -> None:
    assert make_row(facts("first_step", starts=0), None, True, NOW).restarts == 0
    assert make_row(facts("first_step", starts=3), job("RUNNING"), True, NOW).restarts == 2
    assert (
        make_row(facts("submitted", starts=1), job("PENDING", restarts=4), True, NOW).restarts == 4
    )


def test_a_run_that_ended_early_is_finished_and_says_why() -> None:
    for info in (None, job("COMPLETED"), job("TIMEOUT")):
        row = make_row(facts("finished", reason="no better val"), info, True, NOW)
        assert (row.state, row.reason, row.time_left) == ("finished", "no better val", None)


def test_time_left_is_that_of_the_steps_that_remain() -> None:
    row = make_row(facts("first_step"), job("RUNNING", left=3600), True, NOW)
    assert (row.epoch, row.epochs, row.step, row.steps) == (3, 30, 250, 3000)
    assert row.time_left == 2750 * 2.0
    assert row.limit_left == 3600


@pytest.mark.parametrize(
    "known",
    [facts("finished"), facts("first_step", step_seconds=None), facts("first_step", epochs=None),
     facts("first_step", steps_per_epoch=None)],
)  # fmt: skip
def test_time_left_is_not_guessed(known: Facts) -> None:
    assert make_row(known, None, True, NOW).time_left is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0:00"), (0, "0:00"), (9.4, "0:09"), (59.6, "1:00"), (750, "12:30"), (3600, "1:00:00"),
     (86399, "23:59:59"), (2 * 86400 + 4 * 3600 + 5, "2-04:00:05")],
)  # fmt: skip
def test_durations_are_written_as_slurm_does(seconds: float, text: str) -> None:
    assert duration(seconds) == text


ROW = make_row(
    facts("first_step", starts=2, val_top1=0.6412, test_top1=0.6, reason=""),
    job("RUNNING", left=3600), True, NOW,
)  # fmt: skip


def test_the_table_shows_what_there_is() -> None:
    assert table([ROW]) == [
        ["run", "job", "state", "epoch", "step", "val %", "test %", "restarts", "time left",
         "limit left"],
        ["runs/a", "12", "running", "3/30", "250", "64.12", "60.00", "1", "1:31:40", "1:00:00"],
    ]  # fmt: skip


def test_a_column_that_says_nothing_is_left_out() -> None:
    bare = make_row(Facts("runs/b"), None, False, NOW)
    assert table([bare]) == [["run", "state", "step"], ["runs/b", "unknown", "0"]]
    mixed = table([bare, ROW])
    assert mixed[1] == ["runs/b", "", "unknown", "", "0", "", "", "", "", ""]


def test_a_test_score_of_another_epoch_than_the_best_names_it() -> None:
    old = ROW._replace(test_top1=0.5, test_of="epoch=0003-step=00000040-top1=0.4000.ckpt")
    other = old._replace(test_of="mine.ckpt")
    head, *cells = table([old, other, old._replace(test_of=None)])
    assert [row[head.index("test %")] for row in cells] == [
        "50.00 (epoch 4)", "50.00 (other)", "50.00",
    ]  # fmt: skip


def test_a_long_reason_is_cut_and_stays_on_one_line() -> None:
    row = ROW._replace(state="failed", reason="RuntimeError:\n  " + "x" * 200)
    cell = table([row])[1][2]
    assert cell.startswith("failed: RuntimeError: xxx")
    assert cell.endswith("…")
    assert len(cell) == 48


@given(
    st.sampled_from(["none", "submitted", "first_step", "stopped", "finished", "failed"]),
    st.none() | st.sampled_from([*ENDED, "RUNNING", "PENDING", "COMPLETING", "UNKNOWN"]),
    st.booleans(),
)
def test_every_run_has_a_state(last: str, state: str | None, answered: bool) -> None:
    row = make_row(facts(last), None if state is None else job(state), answered, NOW)
    assert row.state
    assert row.state == row.state.lower()
    assert json.dumps(row._asdict(), allow_nan=False)


def status(*arguments: str) -> int:
    """The command, as the command line calls it."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    add_options(parser)
    return work(parser.parse_args(arguments))


def make_run(folder: Path, *jobs: str, step: int | None = None, **end: Any) -> Path:
    """A run folder as `submit` and a start leave it: 3 epochs of 10 steps, one step a second."""
    folder.mkdir(parents=True)
    for job in jobs:
        append(folder, "submitted", job=job, kind="train")
    if step is not None:
        job = jobs[-1] if jobs else None
        append(folder, "started", job=job, step=0, ranks=2, epochs=3, steps_per_epoch=10, time=1e9)
        lines = [
            {"step": i, "epoch": i // 10, "time": 1e9 + i, "val/top1": i / 100} for i in range(step)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        if end:
            append(folder, **{"job": job, "step": step, **end})
    return folder


def by_name(folder: Path) -> dict[str, Row]:
    return {Path(row.run).name: row for row in survey(find_runs([folder]))}


def test_without_slurm_the_folders_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    runs = tmp_path / "runs"
    make_run(runs / "alive", "12", step=14)
    make_run(runs / "done", step=30, event="finished")
    make_run(runs / "sweep" / "broken", "13", step=3, event="failed", error="[bold]bang[/none]")
    monkeypatch.chdir(tmp_path)
    assert status() == 0
    out = capsys.readouterr().out
    assert "runs/sweep/broken" in out
    assert "failed: [bold]bang[/none]" in out
    assert "limit left" not in out
    assert status("runs/alive", "runs/done", "--json") == 0
    alive, done = json.loads(capsys.readouterr().out)
    assert alive["reason"].startswith("wrote ")
    assert {**alive, "reason": ""} == {
        "run": "runs/alive", "job": "12", "state": "unknown", "reason": "", "epoch": 2, "epochs": 3,
        "step": 14, "steps": 30, "val_top1": 0.13, "test_top1": None, "test_of": None,
        "restarts": 0, "time_left": 16.0, "limit_left": None,
        "straggler": None, "excluded": [],
    }  # fmt: skip
    assert (done["state"], done["job"], done["time_left"]) == ("finished", None, None)


def test_watched_runs_are_looked_at_again_until_somebody_stops_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", step=3)
    with pytest.raises(UserError, match="--watch draws on a terminal"):
        status(str(run), "--watch")
    waited = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 2:
            raise KeyboardInterrupt
        append(run, "finished", step=30)

    monkeypatch.setattr("pattlite_dist.commands.status.time.sleep", wait)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    with pytest.raises(UserError, match="below 1 s"):
        status(str(run), "--watch", "--every", "0")
    assert status(str(run), "--watch", "--every", "2") == 0
    out = capsys.readouterr().out
    assert (waited, out.count("finished"), out.count("unknown")) == ([2.0, 2.0], 2, 1)


def test_runs_that_are_not_there_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="runs is not a folder"):
        status()


def test_status_does_not_wait_for_torch() -> None:
    code = (
        "import sys, pattlite_dist.commands.status, pattlite_dist.commands.cancel\n"
        "sys.exit(str({'torch', 'pytorch_lightning', 'submitit', 'wandb'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "set()"


@pytest.mark.slurm
def test_slurm_tells_what_becomes_of_each_run(cluster: Cluster, tmp_path: Path) -> None:
    runs, fails = cluster.submit("sleep 60", "--time=5"), cluster.submit("exit 3")
    waits = cluster.submit("true", "--begin=now+1hour")
    ends = cluster.submit("true")
    evaluates = cluster.submit("exit 1")
    make_run(tmp_path / "runs", runs, step=14)
    make_run(tmp_path / "waits", fails, waits, step=14, event="requeued")
    make_run(tmp_path / "fails", fails, step=14, event="first_step")
    make_run(tmp_path / "lost", "999999", step=14, event="first_step")
    make_run(tmp_path / "ends", ends, step=30, event="finished")
    append(tmp_path / "ends", "submitted", job=evaluates, kind="evaluate")
    cluster.until(lambda: by_name(tmp_path)["runs"].state == "running")
    cluster.until(lambda: by_name(tmp_path)["fails"].state == "failed")
    rows = by_name(tmp_path)
    assert {name: row.state for name, row in rows.items()} == {
        "runs": "running", "waits": "pending", "fails": "failed", "lost": "lost", "ends": "finished"
    }  # fmt: skip
    assert (rows["waits"].job, rows["waits"].reason) == (waits, "BeginTime")
    assert rows["fails"].reason == "exit 3"
    limit = rows["runs"].limit_left
    assert limit is not None
    assert 200 < limit <= 300
    assert rows["ends"].job == ends


@pytest.mark.slurm
def test_each_run_of_an_array_has_its_own_state(cluster: Cluster, tmp_path: Path) -> None:
    array = cluster.submit("[ $SLURM_ARRAY_TASK_ID != 1 ] || exit 1; sleep 60", "--array=0-4%3")
    for index in range(5):
        make_run(tmp_path / "sweep" / f"seed-{index}", f"{array}_{index}")
    wanted = ["running", "failed", "running", "running", "pending"]
    cluster.until(lambda: [row.state for row in by_name(tmp_path).values()] == wanted)
    assert [row.job for row in by_name(tmp_path).values()] == [f"{array}_{i}" for i in range(5)]


@pytest.mark.slurm
def test_a_requeued_run_counts_its_restarts(cluster: Cluster, tmp_path: Path) -> None:
    job = cluster.submit("sleep 60")
    make_run(tmp_path / "a", job, step=14)
    cluster.until(lambda: by_name(tmp_path)["a"].state == "running")
    cluster.run("scontrol", "requeue", job)
    cluster.until(lambda: by_name(tmp_path)["a"].state == "pending")
    assert by_name(tmp_path)["a"].restarts == 1


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (JobInfo("9", "9", "FAILED"), "job 9 before it: failed"),
        (JobInfo("9", "9", "CANCELLED"), "job 9 before it: cancelled"),
        (JobInfo("9", "9", "COMPLETED"), ""),
        (JobInfo("9", "9", "RUNNING"), ""),
        (None, "after job 9, which did not succeed"),
    ],
)
def test_a_run_that_never_began_says_which_job_before_it_failed(
    before: JobInfo | None, reason: str
) -> None:
    """As the one that makes its shards; SLURM has removed the job that waited for it."""
    waited = facts("submitted", after="9")
    row = make_row(waited, job("CANCELLED", reason="Dependency"), True, NOW, before)
    assert (row.state, row.reason) == ("cancelled", reason)
    assert make_row(facts("first_step", after="9"), job("CANCELLED"), True, NOW).reason == ""


def test_a_second_submission_that_failed_does_not_hide_the_first_which_still_trains() -> None:
    told = [{"event": "submitted", "job": name, "kind": "train"} for name in ("12", "13")]
    told.insert(1, {"event": "submitted", "job": "11", "kind": "evaluate"})
    two = Facts("runs/a", standing(told))
    assert two.standing.jobs == ("12", "13")

    def of(**states: str) -> str | None:
        infos = {name[1:]: JobInfo(name[1:], name[1:], state) for name, state in states.items()}
        return training_job(two, infos)

    assert of(j12="RUNNING", j13="FAILED") == "12"
    assert of(j12="RUNNING") == "12"
    assert of(j12="RUNNING", j13="PENDING") == "13"
    assert of(j11="RUNNING", j12="FAILED", j13="FAILED") == "13"
    assert of() == "13"
