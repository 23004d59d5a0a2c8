import itertools
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from submitit.core.job_environment import SignalHandler
from submitit.core.utils import DelayedSubmission, JobPaths
from submitit.slurm.slurm import SlurmJobEnvironment

from pattlite_dist.runtime.signals import STOPPING, Signals, Stopped
from pattlite_dist.slurm import requeue
from pattlite_dist.slurm.job import CommandJob
from pattlite_dist.slurm.requeue import decide, leave
from pattlite_dist.tracking import history

USER = (signal.SIGUSR1, signal.SIGUSR2)
OTHERS = (signal.SIGTERM, signal.SIGINT)
ENDING = ("COMPLETING", "CANCELLED", "GONE", "PREEMPTED", "REQUEUED", "PENDING", "NODE_FAIL",
          "TIMEOUT", "COMPLETED", "FAILED", "")  # fmt: skip


@pytest.mark.parametrize("state", ENDING)
def test_a_job_that_slurm_is_ending_only_leaves(state: str) -> None:
    for signum, restarts in itertools.product(STOPPING, (0, 99, 100, 1000)):
        assert decide(state, signum, restarts, 100) == "leave"


@pytest.mark.parametrize("state", ["RUNNING", "SIGNALING"])
@pytest.mark.parametrize("signum", STOPPING)
def test_a_job_that_runs_is_requeued_up_to_its_limit(state: str, signum: int) -> None:
    assert [decide(state, signum, restarts, 2) for restarts in range(4)] == [
        "requeue", "requeue", "enough", "enough",
    ]  # fmt: skip
    assert decide(state, signum, 0, 0) == "enough"


@pytest.mark.parametrize("signum", USER)
def test_without_an_answer_a_user_signal_which_no_cancellation_sends_is_a_requeue(
    signum: int,
) -> None:
    assert [decide(None, signum, restarts, 1) for restarts in range(3)] == [
        "requeue", "enough", "enough",
    ]  # fmt: skip


@pytest.mark.parametrize("signum", OTHERS)
def test_without_an_answer_another_signal_is_waited_out(signum: int) -> None:
    assert [decide(None, signum, restarts, 1) for restarts in range(3)] == [
        "wait", "enough", "enough",
    ]  # fmt: skip


class Waits(Exception):
    """Instead of waiting forever."""


class Job:
    """A rank inside a job of a make-believe SLURM, with submitit's own handler of signals.

    Attributes:
        bin: the only folder in PATH; `squeue` and `scontrol` in it write down how they are called.
        run: folder.
    """

    def __init__(self, folder: Path) -> None:
        self.bin, self.run, self.log = folder / "bin", folder / "run", folder / "calls"
        for path in (self.bin, self.run):
            path.mkdir()
        self.command("squeue", f"/bin/cat {folder / 'state'}")
        self.command("scontrol", "exit 0")
        self.states = folder / "state"
        self.state("RUNNING")
        self.signals = Signals()
        self.paths = JobPaths(folder / "jobs", "17", 0)
        self.paths.folder.mkdir()

    def state(self, state: str) -> None:
        self.states.write_text(f"{state}\n")

    def command(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> {self.log}\n{text}\n')
        path.chmod(0o755)

    def handler(self, minutes: int = 1440, timeouts: int = 100) -> None:
        """As submitit does before it calls the job."""
        delayed = DelayedSubmission(CommandJob(["info"]))
        delayed.set_timeout(minutes, timeouts)
        delayed.dump(self.paths.submitted_pickle)
        env = SlurmJobEnvironment()
        env._handle_signals(self.paths, delayed)

    def leave(
        self, signum: int = signal.SIGUSR2, limit: int = 100, command: str | None = None
    ) -> int | Literal["waits"]:
        """The exit status."""
        stop = Stopped(signum, 42, None, time.time())
        with self.signals:
            try:
                leave(stop, self.signals, self.run, limit, command)
            except SystemExit as end:
                assert isinstance(end.code, int)
                return end.code
            except Waits:
                return "waits"

    @property
    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    @property
    def requeues(self) -> list[str]:
        return [call for call in self.calls if not call.startswith("squeue")]

    @property
    def events(self) -> list[str]:
        return [str(event["event"]) for event in history.read(self.run)]

    @property
    def reason(self) -> str:
        return history.standing(history.read(self.run)).reason


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Job]:
    names = ("ARRAY_JOB_ID", "ARRAY_TASK_ID", "RESTART_COUNT", "JOB_NODELIST", "NTASKS")
    for name in names:
        monkeypatch.delenv(f"SLURM_{name}", raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    def wait() -> None:
        raise Waits

    monkeypatch.setattr(requeue, "_wait", wait)
    before = {signum: signal.getsignal(signum) for signum in (*STOPPING, signal.SIGCONT)}
    made = Job(tmp_path)
    made.handler()
    yield made
    for signum, handler in before.items():
        signal.signal(signum, handler)


def test_a_running_job_is_requeued_by_submitit_which_counts_it(
    job: Job, capfd: pytest.CaptureFixture[str]
) -> None:
    assert job.leave() == 0
    assert job.calls == ["squeue -h -t all -j 17 -o %T", "scontrol requeue 17"]
    assert job.events == ["requeued"]
    assert history.read(job.run)[0]["job"] == "17"
    assert "pattlite: stopped by SIGUSR2 at step 42; job 17 is RUNNING: requeue" in (
        capfd.readouterr().err.splitlines()
    )
    kept = DelayedSubmission.load(job.paths.submitted_pickle)
    assert isinstance(kept.function, CommandJob)
    assert kept._timeout_countdown == 100, "this was no time-out"
    assert not list(job.paths.folder.glob("*result*")), "it is not done"


def test_a_job_at_its_time_limit_has_one_time_out_less(job: Job) -> None:
    job.handler(minutes=5, timeouts=3)  # submitit takes the last ten minutes for a time-out
    assert job.leave() == 0
    assert DelayedSubmission.load(job.paths.submitted_pickle)._timeout_countdown == 2
    assert job.requeues == ["scontrol requeue 17"]


def test_a_job_that_timed_out_too_often_stays_down_and_says_why(
    job: Job, capfd: pytest.CaptureFixture[str]
) -> None:
    job.handler(minutes=5, timeouts=0)
    assert job.leave() == 1
    assert job.requeues == []
    assert job.events == ["failed"]
    assert "timed-out too many times" in job.reason
    assert "job 17 could not be requeued: " in capfd.readouterr().err


@pytest.mark.parametrize("signum", [*USER, signal.SIGTERM])
@pytest.mark.parametrize("state", ["RUNNING", "SIGNALING"])
def test_preempted_or_out_of_time_it_goes_back_into_the_queue(
    job: Job, signum: int, state: str
) -> None:
    job.state(state)
    assert job.leave(signum) == 0
    assert job.requeues == ["scontrol requeue 17"]
    assert job.events == ["requeued"]


@pytest.mark.parametrize("state", ["COMPLETING", "CANCELLED", "PREEMPTED", ""])
@pytest.mark.parametrize("signum", STOPPING)
def test_a_job_that_was_cancelled_is_not_brought_back(job: Job, state: str, signum: int) -> None:
    job.state(state)
    assert job.leave(signum) == 0
    assert job.requeues == []
    assert job.events == []


def test_a_job_that_slurm_does_not_know_is_not_brought_back(job: Job) -> None:
    job.command("squeue", 'echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1')
    assert job.leave() == 0
    assert job.requeues == []


@pytest.mark.parametrize("rank", ["1", "7"])
@pytest.mark.parametrize("signum", STOPPING)
def test_other_ranks_leave_at_once_and_ask_nothing(
    job: Job, rank: str, signum: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_PROCID", rank)
    assert job.leave(signum) == 0
    assert job.calls == []
    assert job.events == []


def test_a_job_of_an_array_requeues_itself_only(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "19")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert job.leave() == 0
    assert job.calls == ["squeue -h -t all -j 12_3 -o %T", "scontrol requeue 12_3"]
    assert history.read(job.run)[0]["job"] == "12_3"


@pytest.mark.parametrize(("restarts", "status"), [("1", 0), ("2", 1), ("3", 1)])
def test_a_job_is_started_again_so_often_and_no_more(
    job: Job, monkeypatch: pytest.MonkeyPatch, restarts: str, status: int
) -> None:
    monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    assert job.leave(limit=2) == status
    assert job.events == ["failed" if status else "requeued"]
    assert bool(job.requeues) is not bool(status)
    if status:
        assert job.reason == f"restarted {restarts} times, which is its limit"


def test_without_an_answer_sigterm_is_waited_out_and_usr2_is_a_requeue(job: Job) -> None:
    job.command("squeue", "exit 1")
    assert job.leave(signal.SIGTERM) == "waits"
    assert job.requeues == []
    assert job.events == []
    assert job.leave(signal.SIGUSR2) == 0
    assert job.requeues == ["scontrol requeue 17"]


def test_slurm_is_asked_again_until_it_answers(
    job: Job, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its controller is away for a while."""
    monkeypatch.setattr(requeue, "_wait", lambda: job.command("squeue", f"cat {job.states}"))
    monkeypatch.setenv("PATH", f"{job.bin}:/bin:/usr/bin")
    job.command("squeue", "exit 1")
    assert job.leave(signal.SIGTERM) == 0
    assert job.events == ["requeued"]
    said = capfd.readouterr().err
    assert said.index("unknown state: wait") < said.index("is RUNNING: requeue")
    job.command("squeue", "exit 1")
    job.state("CANCELLED")
    assert job.leave(signal.SIGTERM) == 0
    assert job.events == ["requeued"], "it was cancelled meanwhile"


def test_where_slurm_cannot_be_asked_a_batch_script_does_not_wait_for_ever(
    job: Job, capfd: pytest.CaptureFixture[str]
) -> None:
    """In a container without SLURM's programs."""
    (job.bin / "squeue").unlink()
    assert requeue.ask_until_answered("17") == ""
    assert capfd.readouterr().err.startswith("pattlite: there is no squeue here; bind SLURM's")
    assert requeue.requeue_until_done("17", "exit {job}") == "`exit 17`: exit status 17"
    assert requeue.requeue_until_done("17", "true {job}") is None


def test_a_batch_script_asks_for_its_requeue_until_the_controller_is_there(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{job.bin}:/bin:/usr/bin")
    waits: list[None] = []

    def wait() -> None:
        waits.append(None)
        job.command("scontrol", "exit 0")

    monkeypatch.setattr(requeue, "_wait", wait)
    job.command("scontrol", 'echo "Unable to contact slurm controller" >&2; exit 1')
    assert requeue.requeue_until_done("17", None) is None
    assert len(waits) == 1
    job.command("scontrol", 'echo "Access denied" >&2; exit 1')
    assert requeue.requeue_until_done("17", None) == "`scontrol requeue 17`: Access denied"
    assert requeue.requeue_until_done("17", "absent {job}") is not None
    job.state("PENDING")
    assert requeue.requeue_until_done("17", None) is None, "it waits already"
    assert len(waits) == 1


def test_without_scontrol_one_line_names_what_to_set(
    job: Job, capfd: pytest.CaptureFixture[str]
) -> None:
    (job.bin / "scontrol").unlink()
    assert job.leave() == 1
    lines = [line for line in capfd.readouterr().err.splitlines() if "could not" in line]
    assert lines == [
        "pattlite: job 17 could not be requeued: there is no scontrol here; "
        "set requeue_command in the profile"
    ]
    assert job.events == ["failed"]
    assert job.reason.startswith("not requeued: there is no scontrol here")


@pytest.mark.parametrize("signum", OTHERS)
def test_a_preempted_job_that_cannot_requeue_waits_for_slurm_to_do_it(
    job: Job, signum: int
) -> None:
    """A preempted job that ends by itself is done for SLURM."""
    (job.bin / "scontrol").unlink()
    assert job.leave(signum) == "waits"
    assert job.events == []


def test_a_requeue_that_slurm_refuses_is_told_with_its_command(
    job: Job, capfd: pytest.CaptureFixture[str]
) -> None:
    job.command("scontrol", "exit 3")
    assert job.leave() == 1
    assert job.events == ["failed"]
    assert "scontrol" in job.reason
    assert "failed with status 3" in job.reason


def test_the_profiles_command_requeues_where_there_is_no_scontrol(job: Job) -> None:
    (job.bin / "scontrol").unlink()
    job.command("ssh", "exit 0")
    assert job.leave(command="ssh login 'scontrol requeue {job}'") == 0
    assert job.requeues == ["ssh login scontrol requeue 17"]
    assert job.events == ["requeued"]
    assert DelayedSubmission.load(job.paths.submitted_pickle)._timeout_countdown == 100


def test_braces_in_the_profiles_command_are_the_shells(job: Job) -> None:
    job.command("tell", "exit 0")
    command = "A=x; tell ${A}y {job} '{0} {jobs}' ${SLURM_JOB_ID} {"
    assert job.leave(command=command) == 0
    assert job.requeues == ["tell xy 17 {0} {jobs} 17 {"]


def test_a_command_of_the_profile_that_fails_is_named(job: Job) -> None:
    job.command("ssh", "exit 255")
    assert job.leave(command="ssh login {job}") == 1
    assert job.reason == "not requeued: `ssh login 17` failed with status 255"
    assert job.events == ["failed"]


def test_a_job_that_submitit_did_not_start_says_so(
    job: Job, capfd: pytest.CaptureFixture[str]
) -> None:
    signal.signal(signal.SIGUSR2, signal.SIG_DFL)
    assert job.leave() == 1
    assert job.requeues == []
    assert "submitit's handler is missing; submit with `pattlite submit`" in capfd.readouterr().err


def test_submitits_handler_is_the_one_that_is_kept(job: Job) -> None:
    with job.signals:
        handler = job.signals.previous[signal.SIGUSR2]
        assert isinstance(handler.__self__, SignalHandler)
