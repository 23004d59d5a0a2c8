import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pattlite_dist.commands.cancel import add_options, work
from pattlite_dist.errors import UserError
from pattlite_dist.slurm.cancel import (
    Wanted,
    cancel,
    make_plan,
    refusals,
    wanted_jobs,
)
from pattlite_dist.slurm.facts import find_runs
from pattlite_dist.slurm.jobinfo import JobInfo
from pattlite_dist.slurm.queue import state_of
from pattlite_dist.slurm.status import survey
from pattlite_dist.tracking.history import append, read
from tests.slurm.conftest import Cluster

RUN, OTHER = Path("runs/a"), Path("runs/b")


def infos(**states: str) -> dict[str, JobInfo]:
    """By id; `_12` is job 12."""
    ids = {name.removeprefix("_"): state for name, state in states.items()}
    return {job: JobInfo(job, job, state) for job, state in ids.items()}


def test_live_jobs_are_cancelled_and_the_newest_end_of_a_run_is_told() -> None:
    wanted = [
        Wanted("1", RUN), Wanted("2", RUN), Wanted("3", RUN, "evaluate"),
        Wanted("4", OTHER), Wanted("5", OTHER), Wanted("6", OTHER, "evaluate"),
    ]  # fmt: skip
    known = infos(_1="FAILED", _2="RUNNING", _3="PENDING", _4="FAILED", _5="COMPLETED")
    plan = make_plan(wanted, known)
    assert [item for _, item in plan.live] == wanted[1:3]
    assert plan.told == ["5 (runs/b): ended, COMPLETED"]


def test_a_job_that_slurm_does_not_know_is_told() -> None:
    plan = make_plan([Wanted("7"), Wanted("8", RUN)], {})
    assert plan.live == []
    assert plan.told == [
        "7: SLURM does not know it (any more)",
        "8 (runs/a): SLURM does not know it (any more)",
    ]


def test_an_array_s_id_means_all_of_its_jobs() -> None:
    plan = make_plan([Wanted("9")], infos(_9_0="COMPLETED", _9_1="RUNNING", _9_2="PENDING"))
    assert [info.job for info, _ in plan.live] == ["9_1", "9_2"]
    assert plan.told == ["9_0: ended, COMPLETED"]


def test_a_job_that_ends_for_good_may_still_be_requeued_so_it_is_cancelled() -> None:
    assert make_plan([Wanted("9")], infos(_9="COMPLETING")).live


def test_a_job_named_twice_is_cancelled_once_and_its_run_is_known() -> None:
    for wanted in ([Wanted("1"), Wanted("1", RUN)], [Wanted("1", RUN), Wanted("1")]):
        ((_, item),) = make_plan(wanted, infos(_1="RUNNING")).live
        assert item.run == RUN


def test_targets_are_runs_sweeps_and_ids(tmp_path: Path) -> None:
    for name in ("a", "b", "never"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("")
    append(tmp_path / "a", "submitted", job="12_0", kind="train")
    append(tmp_path / "a", "submitted", job="14", kind="evaluate")
    append(tmp_path / "b", "submitted", job="12_1", kind="train")
    wanted, told = wanted_jobs([str(tmp_path), "15", "12_7"])
    assert wanted == [
        Wanted("12_0", tmp_path / "a"), Wanted("14", tmp_path / "a", "evaluate"),
        Wanted("12_1", tmp_path / "b"), Wanted("15"), Wanted("12_7"),
    ]  # fmt: skip
    assert told == [f"{tmp_path / 'never'}: was never submitted"]


def test_a_folder_may_have_a_number_for_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    append(_folder(tmp_path / "12"), "submitted", job="3")
    assert wanted_jobs(["12"])[0] == [Wanted("3", Path("12"))]
    assert wanted_jobs(["13"])[0] == [Wanted("13")]


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize("target", ["nowhere", "12_", "12.0", "-1", "12_3_4", "1٣"])
def test_what_is_neither_is_told(target: str) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        wanted_jobs([target])


def test_refusals_are_read_job_by_job() -> None:
    assert refusals(
        "scancel: error: Kill job error on job id 4: Access/permission denied\n"
        "scancel: error: Kill job error on job id 3_1: Job/step already completing or completed\n"
    ) == {"4": "Access/permission denied", "3_1": "Job/step already completing or completed"}
    assert refusals("scancel: error: Invalid job id foo\n") == {}


def test_without_slurm_there_is_nothing_to_ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(tmp_path, "submitted", job="12")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="there is no SLURM here"):
        cancel([str(tmp_path)])


@pytest.mark.slurm
def test_a_sweep_is_cancelled_and_its_runs_remember(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    array = cluster.submit("[ $SLURM_ARRAY_TASK_ID != 1 ] || exit 1; sleep 60", "--array=0-4%2")
    jobs = [f"{array}_{index}" for index in range(5)]
    for index, job in enumerate(jobs):
        append(_folder(tmp_path / f"seed-{index}"), "submitted", job=job, kind="train")
    cluster.until(lambda: state_of(jobs[1]) == "FAILED" and state_of(jobs[2]) == "RUNNING")
    live = [jobs[0], *jobs[2:]]

    assert cancel([str(tmp_path)], dry_run=True) == live
    assert state_of(jobs[0]) == "RUNNING"
    assert [event["event"] for event in read(tmp_path / "seed-0")] == ["submitted"]
    assert f"{jobs[0]} ({tmp_path / 'seed-0'}): would be cancelled" in capsys.readouterr().out

    assert cancel([str(tmp_path)]) == live
    assert capsys.readouterr().out.splitlines() == [
        f"{jobs[1]} ({tmp_path / 'seed-1'}): ended, FAILED",
        f"{jobs[0]} ({tmp_path / 'seed-0'}): cancelled, was RUNNING",
        f"{jobs[2]} ({tmp_path / 'seed-2'}): cancelled, was RUNNING",
        f"{jobs[3]} ({tmp_path / 'seed-3'}): cancelled, was PENDING",
        f"{jobs[4]} ({tmp_path / 'seed-4'}): cancelled, was PENDING",
    ]
    cluster.until(lambda: not cluster.queue())
    # SLURM itself has forgotten those that had not begun.
    states = [row.state for row in survey(find_runs([tmp_path]))]
    assert states == ["cancelled", "failed", "cancelled", "cancelled", "cancelled"]
    with pytest.raises(UserError, match="nothing to cancel"):
        cancel([str(tmp_path)])


@pytest.mark.slurm
def test_an_evaluation_is_cancelled_with_its_run(cluster: Cluster, tmp_path: Path) -> None:
    trains = cluster.submit("sleep 60")
    evaluates = cluster.submit("true", f"--dependency=afterok:{trains}")
    append(tmp_path, "submitted", job=trains, kind="train")
    append(tmp_path, "submitted", job=evaluates, kind="evaluate")
    assert set(cancel([str(tmp_path)])) == {trains, evaluates}
    cluster.until(lambda: state_of(trains) == state_of(evaluates) == "CANCELLED")


def options(*arguments: str) -> Any:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    add_options(parser)
    return parser.parse_args(arguments)


@pytest.mark.slurm
def test_jobs_are_cancelled_by_their_ids(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    ended, runs = cluster.submit("true"), cluster.submit("sleep 60")
    array = cluster.submit("true", "--array=0-1", "--begin=now+1hour")
    cluster.until(lambda: state_of(ended) == "COMPLETED")
    assert cancel([ended, runs, f"{array}_1", "999999"]) == [runs, f"{array}_1"]
    out = capsys.readouterr().out
    assert f"{ended}: ended, COMPLETED" in out
    assert "999999: SLURM does not know it (any more)" in out
    assert state_of(f"{array}_0") == "PENDING"
    assert work(options("--dry-run", array)) == 0
    assert f"{array}_0: would be cancelled, was PENDING" in capsys.readouterr().out
    assert work(options(array)) == 0
    assert f"{array}_0: cancelled, was PENDING" in capsys.readouterr().out
    cluster.until(lambda: not cluster.queue())


@pytest.mark.slurm
def test_a_job_that_is_just_being_requeued_stays_down(cluster: Cluster) -> None:
    # It takes a second to end, and would then wait for its next start.
    job = cluster.submit("trap '' TERM; for i in 1 2 3 4 5; do sleep 1; done")
    cluster.until(lambda: state_of(job) == "RUNNING")
    cluster.run("scontrol", "requeue", job)
    cluster.until(lambda: state_of(job) == "COMPLETING")
    assert cancel([job]) == [job]
    cluster.until(lambda: state_of(job) == "CANCELLED")


@pytest.mark.slurm
def test_another_user_s_job_stays_and_the_refusal_is_told(cluster: Cluster) -> None:
    job = cluster.submit("sleep 60")
    code = f"from pattlite_dist.slurm.cancel import cancel; cancel(['{job}'])"
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c", code],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert f"SLURM did not cancel {job}: Access/permission denied" in done.stderr
    assert state_of(job) in ("RUNNING", "PENDING")
