"""What the end of a batch script makes of a job whose ranks have failed."""

import pickle
import subprocess
from pathlib import Path
from typing import Any

import pytest
from submitit.core.utils import DelayedSubmission

from pattlite_dist.slurm import aftermath, exclude
from pattlite_dist.slurm.aftermath import BEGIN, end_of, judge, task_failure, why
from pattlite_dist.slurm.job import CommandJob, TrainJob
from pattlite_dist.tracking import history
from pattlite_dist.tracking.crashes import given_up, in_vain, starts_in_vain
from pattlite_dist.train.names import make_name

LOG = f"""{BEGIN}n[1-2]
srun: error: n9: task 7: Killed
{BEGIN}n[1-2]
epoch 1/6, step 7
slurmstepd: error: *** STEP 17.0 ON n1 CANCELLED ***
srun: error: n1: task 0: Exited with exit code 1
pattlite: error: lost the connectionsrun: error: n2: task 1: Killed
srun: error: n1: task 2: Segmentation fault (core dumped)
"""


def events(*names: str, **facts: Any) -> list[dict[str, Any]]:
    return [{"event": name, **facts} for name in names]


@pytest.mark.parametrize(
    ("status", "told", "verdict"),
    [
        (143, events("started", "first_step", "finished"), "done"),  # in its last second
        (143, [], "asked"),  # in its first
        (140, [], "asked"),
        (137, [], "crashed"),
        (1, [], "crashed"),
        (2, [], "mistake"),
        (2, events("started"), "mistake"),
        (143, events("started"), "crashed"),
        (137, events("started", "first_step"), "crashed"),
        (1, events("started", "failed", error="lost"), "crashed"),
        (143, events("started", "failed", error="NaN", final=True), "mistake"),
        (137, events("started", "stopped", signal="SIGTERM"), "asked"),
        (1, events("started", "stopped", "failed", error="not requeued"), "crashed"),
    ],
)
def test_the_end_of_a_start_is_one_of_four(
    status: int, told: list[dict[str, Any]], verdict: str
) -> None:
    assert judge(status, told) == verdict


def test_sruns_own_lines_say_which_rank_was_the_first_to_crash_in_this_start() -> None:
    assert task_failure(LOG) == "rank 1 on n2 was killed"
    assert task_failure(LOG.replace("Killed", "Out Of Memory")) == "rank 1 on n2 was out of memory"
    assert task_failure(LOG.replace("n2: task 1:", "n2: tasks 1-3:")) == (
        "ranks 1-3 on n2 was killed"
    )
    assert task_failure(f"{LOG}{BEGIN}n1\nsrun: error: n1: task 0: Terminated\n") is None
    assert task_failure("") is None
    ends = "srun: launch/slurm: _step_signal: Terminating StepId=17.0\n"
    assert task_failure(f"{LOG}{ends}") == "rank 1 on n2 was killed"
    late = f"{BEGIN}n2\n{ends}srun: error: n2: task 1: Killed\n"
    assert task_failure(late) is None, "it would not end when another had"
    assert task_failure(late.replace("Killed", "Out Of Memory")) is not None


def test_a_crash_is_told_by_srun_else_by_the_history_else_by_its_status() -> None:
    lost = events("started", "failed", error="lost the connection")
    assert why(137, lost, LOG, 1200) == "rank 1 on n2 was killed after step 1,200"
    assert why(1, lost, "") == "lost the connection"
    assert why(139, events("started"), "") == "exit status 139"


def test_crashes_are_counted_from_the_newest_checkpoint_and_the_last_submission() -> None:
    def crash(step: int, error: str) -> list[dict[str, Any]]:
        return events("started") + events("requeued", error=error, step=step)

    told = [*crash(5, "a"), *crash(9, "b"), *events("requeued"), *crash(9, "c")]
    assert in_vain(told, 9) == ["b", "c"]
    assert in_vain(told, 12) == []
    assert in_vain([*told, *events("submitted", kind="evaluate")], 9) == ["b", "c"]
    assert in_vain([*told, *events("submitted")], 9) == []
    assert given_up(["b", "c"]) is None
    assert given_up(["b", "c", "d"]) == ("3 starts without a newer checkpoint (1: b; 2: c; 3: d)")


def test_starts_by_an_agent_are_counted_likewise() -> None:
    def start(step: int, *more: dict[str, Any]) -> list[dict[str, Any]]:
        return [*events("started", step=step), *events("first_step"), *more]

    lost = events("failed", error="lost")
    told = [*start(0), *start(9, *lost), *start(9), *start(9, *lost)]
    assert starts_in_vain(told, 9) == ["lost", "killed", "lost"]
    assert starts_in_vain(told, 12) == []
    assert starts_in_vain([*told, *events("stopped", step=9)], 9) == []
    bad = events("failed", error="bad node")
    probed = [*events("probed", step=9, bad={"n2": ["full"]}), *bad]
    assert starts_in_vain([*start(9, *lost), *probed, *probed], 9) == [
        "lost", "bad node", "bad node",
    ]  # fmt: skip


class Job:
    """A job in its batch script, of a make-believe SLURM."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run, self.jobs = folder / "run", folder / "run" / "slurm"
        self.jobs.mkdir(parents=True)
        self.state, self.error = "RUNNING", None
        self.requeued: list[str] = []
        self.env = monkeypatch
        monkeypatch.setattr(aftermath, "ask_until_answered", lambda job: self.state)
        monkeypatch.setattr(aftermath, "requeue_until_done", self._requeue)
        monkeypatch.setenv("SLURM_JOB_ID", "17")
        for name in ("ARRAY_JOB_ID", "RESTART_COUNT"):
            monkeypatch.delenv(f"SLURM_{name}", raising=False)
        self.work: Any = TrainJob(self.run, 9)

    def _requeue(self, job: str, command: str | None) -> str | None:
        self.requeued.append(job)
        return self.error

    def ends(self, status: int, restart: int = 0, *told: str, **facts: Any) -> int:
        self.env.setenv("SLURM_RESTART_COUNT", str(restart))
        for name in told:
            history.append(self.run, name, **facts)  # type: ignore[arg-type]
        DelayedSubmission(self.work).dump(self.jobs / "17_submitted.pkl")
        return end_of(self.jobs, status)

    def last(self) -> dict[str, Any]:
        keys = ("event", "error", "step", "final")
        return {key: value for key, value in history.read(self.run)[-1].items() if key in keys}


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    return Job(tmp_path, monkeypatch)


def test_a_job_that_crashed_goes_back_into_the_queue_while_it_gets_on(job: Job) -> None:
    checkpoints = job.run / "checkpoints"
    checkpoints.mkdir()
    for restart in range(5):
        (checkpoints / make_name(0, 10 * restart + 10, None)).touch()
        assert job.ends(137, restart, "started") == 0
        assert job.last() == {
            "event": "requeued", "error": "exit status 137", "step": 10 * restart + 10,
        }  # fmt: skip
    assert job.ends(139, 5, "started") == 0
    assert job.ends(1, 6, "started", "failed", error="lost") == 1
    assert job.last() == {
        "event": "failed", "final": True,
        "error": "3 starts without a newer checkpoint (1: exit status 137; 2: exit status 139; "
        "3: lost)",
    }  # fmt: skip
    assert job.requeued == ["17"] * 6


def test_a_node_that_failed_its_probe_is_left_out_of_the_next_start(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []

    def call(*command: str) -> "subprocess.CompletedProcess[str]":
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, "ExcNodeList=(null)", "")

    monkeypatch.setattr(exclude.queue, "call", call)
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    history.append(job.run, "probed", step=0, bad={"n2": ["full"]})
    assert job.ends(143) == 0, "status of the rank that another's end has ended"
    last = history.read(job.run)[-1]
    assert (last["event"], last["excluded"]) == ("requeued", ["n2"])
    assert last["error"] == "node n2 failed its probe: full"
    assert asked[-1] == ("scontrol", "update", "JobId=17", "ExcNodeList=n2")
    assert job.requeued == ["17"]
    monkeypatch.setattr(exclude.queue, "call", lambda *command: None)
    job.env.setenv("SLURM_RESTART_COUNT", "1")
    history.append(job.run, "probed", step=0, bad={"n1": ["full"]})
    assert job.ends(1, 1) == 0
    assert history.read(job.run)[-1]["kept"] == ["n1"]


def test_a_mistake_or_a_divergence_never_starts_again(job: Job) -> None:
    assert job.ends(2) == 2
    history.note_failed(job.run, "training has diverged", final=True)
    assert job.ends(143) == 143
    assert job.requeued == []


def test_a_job_whose_work_is_done_ends_well_whatever_it_was_sent(job: Job) -> None:
    assert job.ends(143, 0, "started", "finished") == 0
    job.work = CommandJob(["evaluate"])
    (job.jobs / "17_0_result.pkl").write_bytes(pickle.dumps(("success", None)))
    assert job.ends(143) == 0
    assert job.requeued == []


def test_a_job_that_was_signalled_before_it_began_does_what_it_was_asked(job: Job) -> None:
    assert job.ends(143) == 0
    assert job.last() == {"event": "requeued"}
    job.state = "COMPLETING"  # cancelled
    assert job.ends(143, 1) == 143
    job.work, job.state = CommandJob(["evaluate"]), "RUNNING"
    assert job.ends(140, 2) == 0
    assert job.requeued == ["17", "17"]
    assert job.ends(1, 3) == 1, "a command that failed"


def test_a_job_is_started_so_often_and_no_more_also_after_crashes(job: Job) -> None:
    assert job.ends(137, 9, "started") == 137
    assert job.last() == {
        "event": "failed", "final": True,
        "error": "restarted 9 times, which is its limit: exit status 137",
    }  # fmt: skip
    job.error = "`scontrol requeue 17`: Access denied"
    assert job.ends(137, 3, "started") == 137
    assert "Access denied: exit status 137" in str(job.last()["error"])


def test_what_is_not_ours_keeps_its_status(job: Job) -> None:
    assert end_of(job.jobs, 5) == 5
    (job.jobs / "17_submitted.pkl").write_bytes(b"cut off")
    assert end_of(job.jobs, 5) == 5


def test_where_slurm_cannot_be_asked_a_crash_goes_back_and_a_stop_may_be_a_cancellation(
    job: Job,
) -> None:
    job.state = ""
    assert job.ends(143) == 143
    assert job.requeued == []
    assert job.ends(137, 0, "started") == 0
    assert job.requeued == ["17"]
