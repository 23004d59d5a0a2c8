import os
import pickle
import pickletools
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import cloudpickle
import pytest
from submitit.core.utils import DelayedSubmission, JobPaths

from pattlite_dist.config import Config
from pattlite_dist.errors import UserError
from pattlite_dist.runtime.failure import NoGroup
from pattlite_dist.runtime.signals import STOPPING, Signals, Stopped
from pattlite_dist.slurm import requeue
from pattlite_dist.slurm.job import CommandJob, TrainJob
from pattlite_dist.tracking import history, wandb_run
from pattlite_dist.tracking.folder import prepare_folder
from pattlite_dist.train import run
from tests.conftest import environment

JOBS = [
    TrainJob(Path("/runs/one"), 7, "ssh login scontrol requeue {job}"),
    CommandJob(["evaluate", "/runs/one"]),
]
HEAVY = ("torch", "pytorch_lightning", "wandb", "torchvision", "matplotlib", "pydantic", "yaml")


def python(code: str, *arguments: str, **extra: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment(**extra), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("job", JOBS)
def test_a_job_is_pickled_by_reference_and_holds_no_code(job: Any) -> None:
    content = cloudpickle.dumps(job)
    operations = list(pickletools.genops(content))
    texts = [value for _, value, _ in operations if isinstance(value, str)]
    assert {"pattlite_dist.slurm.job", type(job).__name__} <= set(texts)
    for text in texts:
        assert "cloudpickle" not in text, "pickled by value"
        assert "__call__" not in text
        assert str(Path(__file__).parent) not in text
    assert len(content) < 500
    assert vars(pickle.loads(content)) == vars(job)


def test_a_job_is_unpickled_without_importing_anything_heavy(tmp_path: Path) -> None:
    delayed = DelayedSubmission(JOBS[0])
    delayed.set_timeout(60, 3)
    delayed.dump(tmp_path / "job.pkl")
    done = python(
        "import sys, pattlite_dist.slurm.job\n"
        "from submitit.core.utils import DelayedSubmission\n"
        "job = DelayedSubmission.load(sys.argv[1]).function\n"
        f"print(job.run, [name for name in {HEAVY} if name in sys.modules])",
        str(tmp_path / "job.pkl"),
    )
    assert done.stdout == "/runs/one []\n", done.stderr


@pytest.mark.parametrize("job", JOBS)
def test_a_job_goes_back_into_the_queue_as_it_was(job: Any) -> None:
    assert job.checkpoint().function is job


class Trainings:
    """What a training job does, written down; training itself is told what to raise."""

    def __init__(self, run_folder: Path) -> None:
        self.run, self.did = run_folder, list[str]()
        self.ends_with: Exception | None = None
        self.signals: Signals | None = None
        self.left: tuple[Any, ...] = ()
        self.sent = 0

    def train(self, config: Config, signals: Signals) -> Path:
        self.did.append(f"train {config.name}")
        self.signals = signals
        if self.sent:
            os.kill(os.getpid(), self.sent)
        if self.ends_with is not None:
            raise self.ends_with
        return self.run

    def leave(self, *arguments: Any) -> NoReturn:
        self.did.append("leave")
        self.left = arguments
        raise SystemExit(0)

    def end(self) -> None:
        self.did.append("end of W&B")

    def events(self) -> list[tuple[Any, ...]]:
        return [(event["event"], event.get("error")) for event in history.read(self.run)]


@pytest.fixture
def trainings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trainings:
    made = Trainings(tmp_path / "runs" / "one")
    prepare_folder(Config(name="one", runs=str(tmp_path / "runs")), made.run, None)
    monkeypatch.setattr(run, "train", made.train)
    monkeypatch.setattr(requeue, "leave", made.leave)
    monkeypatch.setattr(wandb_run, "end", made.end)
    for name in ("ARRAY_JOB_ID", "ARRAY_TASK_ID", "RESTART_COUNT"):
        monkeypatch.delenv(f"SLURM_{name}", raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_PROCID", "0")
    return made


def test_a_training_job_trains_the_run_of_its_folder(trainings: Trainings) -> None:
    before = [signal.getsignal(signum) for signum in STOPPING]
    TrainJob(trainings.run, 3)()
    assert trainings.did == ["train one", "end of W&B"]
    assert trainings.events() == []
    assert [signal.getsignal(signum) for signum in STOPPING] == before


@pytest.mark.parametrize("signum", STOPPING)
def test_a_signal_to_a_training_job_is_noted_and_stops_nothing(
    trainings: Trainings, signum: int
) -> None:
    trainings.sent = signum
    TrainJob(trainings.run, 3)()
    assert trainings.signals is not None
    assert trainings.signals.got == signum


def test_a_stopped_job_leaves_while_submitits_handler_is_at_hand_and_wandb_ends_last(
    trainings: Trainings,
) -> None:
    stop = Stopped(signal.SIGUSR2, 5, None, 0.0)
    trainings.ends_with = stop
    with pytest.raises(SystemExit) as caught:
        TrainJob(trainings.run, 3, "tell {job}")()
    assert caught.value.code == 0
    assert trainings.did == ["train one", "leave", "end of W&B"]
    assert trainings.signals is not None
    assert trainings.left == (stop, trainings.signals, trainings.run, 3, "tell {job}")
    assert trainings.signals.previous[signal.SIGUSR2] == signal.getsignal(signal.SIGUSR2)


def test_a_users_mistake_is_one_line_and_status_2(
    trainings: Trainings, capsys: pytest.CaptureFixture[str]
) -> None:
    trainings.ends_with = UserError("the shards are gone; restore them")
    with pytest.raises(SystemExit) as caught:
        TrainJob(trainings.run, 3)()
    assert caught.value.code == 2
    assert capsys.readouterr() == ("", "pattlite: error: the shards are gone; restore them\n")
    assert trainings.did == ["train one", "end of W&B"]
    assert trainings.events() == [("failed", "the shards are gone; restore them")]


def test_a_mistake_that_training_has_noted_is_not_noted_again_and_never_by_other_ranks(
    trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings.ends_with = UserError("no")
    history.append(trainings.run, "failed", error="no")
    with pytest.raises(SystemExit):
        TrainJob(trainings.run, 3)()
    assert trainings.events() == [("failed", "no")]
    trainings.ends_with = UserError("other")
    monkeypatch.setenv("SLURM_PROCID", "1")
    with pytest.raises(SystemExit):
        TrainJob(trainings.run, 3)()
    assert trainings.events() == [("failed", "no")]


def test_a_rank_that_does_not_reach_rank_0_names_its_node(
    trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PROCID": "1", "LOCALID": "0", "STEP_NODELIST": "n[1-2]"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("SLURMD_NODENAME", "n2")
    for reached in (True, False):
        trainings.ends_with = NoGroup("rank 1 cannot reach rank 0", reached)
        with pytest.raises(SystemExit) as caught:
            TrainJob(trainings.run, 3)()
        assert caught.value.code == 1
    [event] = history.read(trainings.run)
    assert (event["event"], event["main"]) == ("probed", "n1")
    assert event["bad"] == {"n2": ["rank 1 cannot reach rank 0"]}


def test_a_folder_that_is_gone_is_one_line_and_status_2(
    trainings: Trainings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        TrainJob(tmp_path / "gone", 3)()
    assert caught.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"pattlite: error: {tmp_path}/gone is not a run folder: it has no config.yaml; train first"
    )
    assert trainings.did == ["end of W&B"]


def test_a_bug_keeps_its_traceback(trainings: Trainings) -> None:
    trainings.ends_with = ZeroDivisionError("ours")
    with pytest.raises(ZeroDivisionError):
        TrainJob(trainings.run, 3)()
    assert trainings.did == ["train one", "end of W&B"]


def test_a_command_that_fails_ends_with_its_status_and_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for arguments in (["nonsense"], ["evaluate", str(tmp_path / "gone")]):
        with pytest.raises(SystemExit) as caught:
            CommandJob(arguments)()
        assert caught.value.code == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("pattlite: error: ")
        assert err.count("\n") == 1
    CommandJob(["--version"])()
    assert capsys.readouterr().out.startswith("pattlite_dist ")


@pytest.mark.parametrize(("word", "status"), [("--version", 0), ("nonsense", 2)])
def test_submitit_takes_only_a_command_that_went_well_for_done(
    tmp_path: Path, word: str, status: int
) -> None:
    delayed = DelayedSubmission(CommandJob([word]))
    delayed.set_timeout(60, 3)
    paths = JobPaths(tmp_path, "17", 0)
    delayed.dump(paths.submitted_pickle)
    done = python(
        "import sys; from submitit.core.submission import process_job; process_job(sys.argv[1])",
        str(tmp_path), SUBMITIT_EXECUTOR="slurm", SLURM_JOB_ID="17", SLURM_PROCID="0",
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert paths.result_pickle.exists() is (status == 0)
