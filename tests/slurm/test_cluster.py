"""The cluster does what the tests on it take for granted."""

import contextlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.slurm.conftest import SCRIPT, UP, Cluster, parse_job

slurm = pytest.mark.slurm
TELL = "for s in USR2 TERM; do trap \"echo $s >>'{log}'\" $s; done; echo on >>'{log}'; "
SLEEP = f"sleep 4321.{os.getpid()}"  # nobody else's
FOR_EVER = "while :; do sleep 0.1; done"


def told(log: Path) -> list[str]:
    return log.read_text().split() if log.exists() else []


@slurm
def test_both_nodes_are_free(cluster: Cluster) -> None:
    # Not asked of sinfo, which may say "mixed" long after a node's last job, until something else
    # about the node changes. Every CPU of both is given out at once, or not at all.
    assert cluster.queue() == []
    srun = ("srun", "-N2", "--exclusive", "--immediate=30", "hostname")
    assert sorted(cluster.run(*srun).split()) == ["n1", "n2"]


@slurm
def test_gpus_are_counted_and_shown_to_the_job(cluster: Cluster) -> None:
    shown = cluster.run("srun", "-N2", "--gpus-per-node=2", "printenv", "CUDA_VISIBLE_DEVICES")
    assert shown.split() == ["0,1", "0,1"]
    with pytest.raises(RuntimeError, match="not available"):
        cluster.run("srun", "-N1", "--gpus-per-node=3", "true")


@slurm
def test_a_task_bound_to_one_gpu_knows_how_many_there_are_on_its_node(cluster: Cluster) -> None:
    names = ("CUDA_VISIBLE_DEVICES", "SLURM_GPUS_ON_NODE")
    for options in (("--gpus-per-node=2", "--gpu-bind=single:1"), ("--gpus-per-task=1",)):
        shown = cluster.run("srun", "-N1", "-n2", *options, "printenv", *names)
        assert sorted(shown.split()) == ["0", "1", "2", "2"]
    shown = cluster.run("srun", "-N1", "-n2", "--gpus-per-node=1", "printenv", *names)
    assert shown.split() == ["0", "1"] * 2


@slurm
@pytest.mark.parametrize(("asked", "by"), [((), None), (("--gpus=1",), "SLURM_GPUS_ON_NODE=1")])
def test_a_job_submitted_from_a_job_with_gpus_knows_its_own(
    asked: tuple[str, ...], by: str | None, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_GPUS", "SLURM_STEP_GPUS"):
        monkeypatch.setenv(name, "0,1")
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "2")
    code = "from pattlite_dist.runtime.devices import given; print(given())"
    assert cluster.run("srun", "-N1", *asked, sys.executable, "-c", code) == f"{by}\n"


@slurm
def test_a_preempted_job_is_requeued_and_started_again(cluster: Cluster) -> None:
    job = cluster.submit("exec sleep 600", "--partition=preempt", "--nodes=2", "--exclusive")
    cluster.wait(job, "RUNNING")
    with cluster.configure(GRACE=0):
        other = cluster.fill()
        cluster.wait(other, "RUNNING")
        assert cluster.wait(job, "PENDING") == "PENDING"
        cluster.cancel(other)
        cluster.wait(job, "RUNNING")
    assert cluster.job(job)["Restarts"] == "1"


@slurm
def test_an_array_over_the_limit_is_refused(cluster: Cluster) -> None:
    with pytest.raises(RuntimeError, match="Invalid job array specification"):
        cluster.submit("true", "--array=0-5")
    job = cluster.submit("true", "--array=0-4")
    cluster.until(lambda: not cluster.queue())
    assert cluster.job(f"{job}_4")["JobState"] == "COMPLETED"


@slurm
def test_a_lost_node_takes_the_job_from_the_others_too(cluster: Cluster) -> None:
    job = cluster.submit(f"srun {SLEEP}", "--nodes=2", "--requeue")
    cluster.wait(job, "RUNNING")
    cluster.until(lambda: processes(SLEEP) == 2)
    cluster.node_kill(2)
    assert processes(SLEEP) <= 1
    cluster.wait(job, "PENDING", 60)
    assert not UP.fullmatch(cluster.node(2))
    cluster.node_start(2)
    cluster.wait(job, "RUNNING")
    assert cluster.job(job)["Restarts"] == "1"


def processes(command: str) -> int:
    """How many run this command, srun's own process aside."""
    found = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            words = path.read_text().rstrip("\0").split("\0")
            found += [Path(words[0]).name, *words[1:]] == command.split()
    return found


@slurm
@pytest.mark.parametrize(
    ("parameters", "signal"), [("", "TERM"), ("preempt_send_user_signal", "USR2")]
)
def test_preemption_sends_the_signal_of_its_setting(
    cluster: Cluster, tmp_path: Path, parameters: str, signal: str
) -> None:
    log, script = tmp_path / "log", tmp_path / "script"
    script.write_text(TELL.format(log=log) + FOR_EVER)
    job = cluster.submit(
        f"srun bash {script}", "--partition=preempt", "--exclusive", "--nodes=1", "--signal=USR2@30"
    )
    with cluster.configure(CTLPARAMS=parameters):
        cluster.until(lambda: told(log) == ["on"])
        cluster.fill()
        began = time.monotonic()
        cluster.until(lambda: len(told(log)) > 1, 20)
        assert told(log)[1] == signal
        assert time.monotonic() - began < 10
        assert cluster.job(job)["JobState"] == "RUNNING"  # until the time of grace is over


@slurm
def test_without_accounting_sacct_answers_nothing(cluster: Cluster) -> None:
    with cluster.configure(ACCT="none"):
        with pytest.raises(RuntimeError, match="accounting storage is disabled"):
            cluster.run("sacct")
        assert cluster.run("srun", "hostname").strip() == "n1"


@slurm
def test_a_misspelt_setting_is_refused(cluster: Cluster) -> None:
    with pytest.raises(RuntimeError, match="no setting GRACES=1"), cluster.configure(GRACES=1):
        pass


def test_a_job_record_is_parsed_with_blanks_and_equals_signs_in_its_values() -> None:
    line = "JobId=7 JobName=two words JobState=RUNNING ReqB:S:C:T=0:0:*:* TRES=cpu=2,node=1 Power="
    assert parse_job(line + " \nJobId=8 JobName=b") == {
        "JobId": "7", "JobName": "two words", "JobState": "RUNNING",
        "ReqB:S:C:T": "0:0:*:*", "TRES": "cpu=2,node=1", "Power": "",
    }  # fmt: skip


def test_the_script_refuses_what_it_does_not_know() -> None:
    done = subprocess.run([SCRIPT, "node-kill", "9"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(r"cluster\.sh: node-kill .*\n", done.stderr)
    done = subprocess.run([SCRIPT, "jump"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "cluster.sh start" in done.stdout
