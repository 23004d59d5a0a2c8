import shutil
from pathlib import Path

import pytest

from pattlite_dist.errors import UserError
from pattlite_dist.slurm import queue
from pattlite_dist.slurm.jobinfo import JobInfo
from pattlite_dist.tracking.history import append
from tests.slurm.conftest import Cluster

UNKNOWN = "999999"  # no cluster of a test gets that far


@pytest.fixture
def no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without SLURM's commands; returns the only folder in PATH, an empty one."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def script(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def test_without_slurm_there_are_no_answers(no_slurm: Path) -> None:
    assert queue.ask(["12"]) is None
    assert queue.jobs(["12"]) == {}
    assert queue.state_of("12") is None
    assert queue.max_array_size() is None
    with pytest.raises(UserError, match="there is no SLURM here"):
        queue.require_slurm()


def test_without_slurm_a_run_with_jobs_may_have_live_ones(no_slurm: Path, tmp_path: Path) -> None:
    assert queue.live_jobs(tmp_path) == []
    append(tmp_path, "submitted", job="12", kind="train")
    assert queue.live_jobs(tmp_path, "evaluate") == []
    with pytest.raises(UserError, match="no SLURM"):
        queue.live_jobs(tmp_path)


def test_a_slurm_that_says_nothing_is_given_up(
    no_slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "SECONDS", 0.2)
    for name in ("squeue", "scontrol", "sinfo"):
        script(no_slurm, name, "exec /bin/sleep 30")
    assert queue.ask(["12"]) is None
    assert queue.state_of("12") is None
    assert queue.max_array_size() is None
    with pytest.raises(UserError, match="does not answer"):
        queue.require_slurm()


def test_a_slurm_that_is_down_is_told_with_its_own_words(no_slurm: Path, tmp_path: Path) -> None:
    for name in ("squeue", "sinfo"):
        script(no_slurm, name, "echo 'slurm_load: Unable to contact slurm controller' >&2; exit 1")
    assert queue.ask(["12"]) is None
    assert queue.state_of("12") is None
    append(tmp_path, "submitted", job="12", kind="train")
    with pytest.raises(UserError, match="Unable to contact"):
        queue.live_jobs(tmp_path)


def test_ids_that_slurm_could_not_have_given_are_not_asked_about(no_slurm: Path) -> None:
    assert queue.ask(["local-3", "", "12_", "--all", "1\n"]) == {}


def test_users_defaults_do_not_reach_the_commands(
    no_slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SQUEUE_USERS", "SCANCEL_INTERACTIVE", "SACCT_FORMAT", "SINFO_FORMAT"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("SLURM_CONF", "/a/file")
    script(no_slurm, "squeue", "/usr/bin/env")
    answer = queue.call("squeue")
    assert answer is not None
    names = {line.partition("=")[0] for line in answer.stdout.splitlines()}
    assert "SLURM_CONF" in names
    assert not any(name.startswith(("SQUEUE", "SCANCEL", "SACCT", "SINFO")) for name in names)


@pytest.mark.slurm
def test_jobs_of_every_fate_are_told_in_one_call(cluster: Cluster) -> None:
    runs = cluster.submit("sleep 60", "--partition=preempt", "--time=5")
    waits = cluster.submit("true", "--begin=now+1hour", "--nodes=2", "--time=1-00:00:00")
    fails = cluster.submit("exit 3")
    cluster.until(lambda: queue.state_of(runs) == "RUNNING")
    cluster.until(lambda: queue.state_of(fails) == "FAILED")
    found = queue.jobs([waits, UNKNOWN, runs, fails])
    assert set(found) == {runs, waits, fails}
    left = found[runs].left
    assert left is not None
    assert 200 < left <= 300
    assert found[runs]._replace(left=None) == JobInfo(
        runs, runs, "RUNNING", nodes=1, partition="preempt"
    )
    assert found[waits] == JobInfo(waits, waits, "PENDING", "BeginTime", 0, 86400, 2, None, "main")
    assert found[fails] == JobInfo(fails, fails, "FAILED", "NonZeroExitCode", 0, None, 1, 3, "main")


@pytest.mark.slurm
def test_a_job_that_slurm_never_knew_is_gone_and_hides_no_other(cluster: Cluster) -> None:
    runs = cluster.submit("sleep 60")
    assert queue.ask([UNKNOWN]) == {}
    assert queue.ask([UNKNOWN, f"{UNKNOWN}_1", f"{runs}_7"]) == {}
    assert set(queue.jobs([UNKNOWN, runs])) == {runs}
    assert queue.state_of(UNKNOWN) == "GONE"
    assert queue.state_of("no id") is None


@pytest.mark.slurm
def test_a_job_that_slurm_forgot_is_in_the_accounts(cluster: Cluster) -> None:
    fails, runs = cluster.submit("exit 3"), cluster.submit("sleep 60")
    array = cluster.submit("exit $SLURM_ARRAY_TASK_ID", "--array=0-1")
    waits = cluster.submit("true", "--array=0-2", "--begin=now+1hour")
    cluster.cancel(waits)
    ids = [fails, array, f"{waits}_1", runs]
    cluster.until(lambda: cluster.queue() == [runs])
    before = queue.jobs(ids)
    with cluster.configure(JOB_AGE=2):
        cluster.until(lambda: {queue.state_of(job) for job in ids[:2]} == {"GONE"})
        found = queue.jobs([*ids, UNKNOWN])
    assert set(found) == {fails, f"{array}_0", f"{array}_1", f"{waits}_1", runs}
    assert [found[job].state for job in before] == [info.state for info in before.values()]
    assert (found[fails].exit_code, found[f"{array}_1"].exit_code) == (3, 1)
    assert found[runs].state == "RUNNING"


@pytest.mark.slurm
def test_without_accounts_a_forgotten_job_is_missing(cluster: Cluster) -> None:
    with cluster.configure(ACCT="none"):
        job = cluster.submit("sleep 60")
        assert set(queue.jobs([UNKNOWN, job])) == {job}
        assert queue.ask([UNKNOWN]) == {}


@pytest.mark.slurm
def test_without_sacct_a_forgotten_job_is_missing(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = cluster.submit("sleep 60")
    squeue = shutil.which("squeue")
    assert squeue is not None
    (tmp_path / "squeue").symlink_to(squeue)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert set(queue.jobs([UNKNOWN, job])) == {job}
    assert queue.ask([UNKNOWN]) == {}


@pytest.mark.slurm
def test_an_array_is_told_job_by_job_while_it_waits_runs_and_ends(cluster: Cluster) -> None:
    array = cluster.submit("[ $SLURM_ARRAY_TASK_ID != 1 ] || exit 7; sleep 60", "--array=0-4%2")
    ids = [f"{array}_{index}" for index in range(5)]

    def states() -> list[str]:
        found = queue.jobs(ids)
        return [found[job].state for job in ids]

    cluster.until(lambda: states() == ["RUNNING", "FAILED", "RUNNING", "PENDING", "PENDING"])
    assert queue.jobs([array]) == queue.jobs(ids)
    assert set(queue.jobs(ids[1:4:2])) == {ids[1], ids[3]}
    assert queue.jobs(ids)[ids[1]].exit_code == 7
    assert queue.jobs(ids)[ids[4]].reason == "JobArrayTaskLimit"
    number = queue.jobs(ids)[ids[2]].number
    assert number not in ids
    assert set(queue.jobs([number])) == {ids[2]}
    assert [queue.state_of(job) for job in ids] == states()


@pytest.mark.slurm
def test_a_requeued_job_counts_its_restarts(cluster: Cluster) -> None:
    job = cluster.submit("sleep 60")
    cluster.until(lambda: queue.state_of(job) == "RUNNING")
    cluster.run("scontrol", "requeue", job)
    cluster.until(lambda: queue.jobs([job])[job].state == "PENDING")
    assert queue.jobs([job])[job].restarts == 1
    cluster.until(lambda: queue.state_of(job) == "RUNNING")
    assert queue.jobs([job])[job].restarts == 1


@pytest.mark.slurm
def test_the_largest_array_is_what_sbatch_takes(cluster: Cluster) -> None:
    size = queue.max_array_size()
    assert size is not None
    cluster.submit("true", f"--array={size - 1}")
    with pytest.raises(RuntimeError, match="Invalid job array"):
        cluster.submit("true", f"--array={size}")


@pytest.mark.slurm
def test_slurm_is_there(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    queue.require_slurm()
    monkeypatch.setattr(queue, "SECONDS", 2.0)  # SLURM asks the name server for a while
    monkeypatch.setenv("SLURM_CONF", "/nowhere/slurm.conf")
    with pytest.raises(UserError, match="SLURM does not answer"):
        queue.require_slurm()
    assert queue.ask(["1"]) is None


@pytest.mark.slurm
def test_live_jobs_of_a_run_are_those_that_have_not_ended(cluster: Cluster, tmp_path: Path) -> None:
    ended, trains = cluster.submit("exit 1"), cluster.submit("sleep 60")
    evaluates = cluster.submit("true", f"--dependency=afterok:{trains}")
    append(tmp_path, "submitted", job=ended, kind="train")
    append(tmp_path, "submitted", job=trains, kind="train")
    append(tmp_path, "submitted", job=evaluates, kind="evaluate")
    cluster.until(lambda: queue.state_of(ended) == "FAILED")
    assert {info.job for info in queue.live_jobs(tmp_path)} == {trains, evaluates}
    assert [info.job for info in queue.live_jobs(tmp_path, "train")] == [trains]
    cluster.cancel(trains)
    cluster.until(lambda: queue.live_jobs(tmp_path, "train") == [])
