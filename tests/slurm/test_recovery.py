"""Jobs of a real SLURM, interrupted in every way that it knows, end as if nothing had happened."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from pattlite_dist.tracking import history
from pattlite_dist.tracking.claim import CLAIM_NAME
from pattlite_dist.tracking.record import read_metrics
from pattlite_dist.train.names import listed
from tests.conftest import command, environment, tiny
from tests.slurm.conftest import Cluster
from tests.starts import Zygote
from tests.train.harness import asleep, assert_same_training

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

# Several times as many as six starts take, on a fast machine too, until each is stopped.
EPOCHS, STEPS = 10, 13  # steps an epoch: 104 samples in global batches of 8
PROFILE = {
    "partition": "preempt", "nodes": 2, "gpus_per_node": 0, "tasks_per_node": 1,
    "cpus_per_task": 1, "memory_gb": 1, "time": "10:00", "signal_seconds": 30,
}  # fmt: skip
# What a stop may take at the very most, beyond which SLURM would kill: the grace time.
GRACE = 15


class Run:
    """A run folder and the job that trains in it."""

    def __init__(self, cluster: Cluster, folder: Path, options: list[str]) -> None:
        self.cluster, self.options = cluster, options
        self.folder, self.job = folder / "runs" / "tiny", ""
        self.home = folder

    def submit(self, *words: str, **profile: object) -> None:
        """Submit it, or submit it again."""
        path = self.home / "profile.yaml"
        path.write_text(yaml.safe_dump({**PROFILE, **profile}))
        done = subprocess.run(
            command(["submit", *self.options, "--profile", str(path), "--skip-checks",
                     "--parsable", *words]),
            cwd=self.home, env=environment(), capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        self.job = done.stdout.strip()

    def events(self, *names: str) -> list[dict[str, Any]]:
        return [event for event in history.read(self.folder) if event["event"] in names]

    def steps(self) -> int:
        """Steps that the record tells of."""
        lines = read_metrics(self.folder / "metrics.jsonl")
        return max((line["step"] + 1 for line in lines), default=0)

    def taken(self) -> list[int]:
        """Steps whose loss the record has, in its order."""
        lines = read_metrics(self.folder / "metrics.jsonl")
        return [line["step"] for line in lines if "train/loss" in line]

    def at_work(self, start: int, steps: int = 5) -> None:
        """Wait until a start, counted from 1, has taken some steps."""
        begun = self.cluster.until(lambda: self.events("started")[start - 1 : start], 150)
        wanted = begun[0]["step"] + steps
        self.cluster.until(lambda: self.events("first_step")[start - 1 :], 60)
        self.cluster.until(lambda: self.steps() >= wanted, 60)

    def ended(self, state: str = "COMPLETED") -> None:
        self.cluster.wait(self.job, state, 240)

    def log(self) -> str:
        return "".join(path.read_text() for path in sorted(self.folder.glob("slurm/*_log.out")))

    def ranks(self) -> list[int]:
        """Process ids of the ranks, loader processes and wandb's own left out."""
        found = subprocess.run(
            ["pgrep", "-f", f"submitit.core._submit {self.folder}/slurm"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        pids = [int(pid) for pid in found.stdout.split()]
        return [pid for pid in pids if b"srun" not in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.fixture
def run(cluster: Cluster, face_shards: Path, tmp_path: Path) -> Run:
    options = tiny(
        face_shards, tmp_path / "runs", trainer__epochs=EPOCHS, trainer__checkpoint_every_steps=20,
    )  # fmt: skip
    return Run(cluster, tmp_path, options[1:])


@pytest.fixture(scope="module")
def reference(zygote: Zygote, face_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run on two ranks without SLURM, uninterrupted."""
    folder = tmp_path_factory.mktemp("reference")
    start = zygote.start(tiny(face_shards, folder, trainer__epochs=EPOCHS), 2)
    assert start.ended, start.log
    return folder / "tiny"


def assert_nothing_twice(run: Run, kills: int) -> None:
    """Every start but those after a kill begins at the very step at which the former stopped."""
    begun = [event["step"] for event in run.events("started")]
    stopped = {event["step"] for event in run.events("stopped")}
    assert sum(step not in stopped for step in begun[1:]) <= kills
    assert run.taken() == list(range(EPOCHS * STEPS))


def test_a_job_preempted_signalled_requeued_and_killed_ends_with_the_same_weights(
    cluster: Cluster, run: Run, reference: Path
) -> None:
    run.options.append("--wandb.mode=offline")
    run.submit()
    run.at_work(1)
    began = time.monotonic()
    high = cluster.fill()  # SIGTERM to the job of the lower partition
    cluster.wait(high, "RUNNING", 60)
    assert time.monotonic() - began < GRACE, "the job was killed, it did not make way"
    cluster.cancel(high)

    run.at_work(2)
    cluster.run("scancel", "--signal=USR2", run.job)

    run.at_work(3)
    cluster.run("scontrol", "requeue", run.job)

    run.at_work(4)
    newest = max(listed(run.folder / "checkpoints"))
    cluster.node_kill(2)
    cluster.wait(run.job, ("PENDING", "REQUEUED"), 60)  # SLURM has noticed: NODE_FAIL
    cluster.until(lambda: not run.ranks(), 10)
    path = run.folder / "checkpoints" / newest.name
    path.write_bytes(path.read_bytes()[:-1000])  # as a file system does that lost its last blocks
    cluster.node_start(2)

    run.at_work(5)
    os.kill(run.ranks()[-1], signal.SIGKILL)  # it goes back into the queue by itself

    run.at_work(6)
    one = run.ranks()[-1]
    os.kill(one, signal.SIGTERM)  # one rank only
    run.ended()

    assert_same_training(reference, run.folder)
    stops = [event["signal"] for event in run.events("stopped")]
    assert stops[:4] == ["SIGTERM", "SIGUSR2", "SIGTERM", "SIGTERM"]
    requeued = run.events("requeued")
    crashes = [event["error"] for event in requeued if "error" in event]
    for crash in crashes:
        assert re.fullmatch(r"rank \d on n\d was killed after step \d+", crash)
    # A minute later SLURM may once more tell the node that was lost to end its job, which by then
    # runs there again: it makes way, also before it has begun, or is killed where it only has.
    early = len(requeued) - len(crashes) - (len(stops) - 1)  # not by us where asked from outside
    again = [*stops[4:], *crashes[1:], *["before it began"] * early]
    assert early >= 0 and len(again) <= 1 and stops[4:] in ([], ["SIGTERM"]), again
    assert_nothing_twice(run, kills=1 + len(crashes))
    assert run.events("finished")[0]["step"] == EPOCHS * STEPS
    segments = [path.name for path in (run.folder / "wandb").glob("offline-run-*")]
    assert 0 <= len(run.events("started")) - len(segments) <= len(crashes[1:])
    assert len({name.rpartition("-")[2] for name in segments}) == 1, "one W&B run"


def test_preemption_by_the_jobs_own_signal(cluster: Cluster, run: Run) -> None:
    """`preempt_send_user_signal`: USR2 instead of SIGTERM; and a job that is cancelled stays so.

    Each time it takes as many of its range of nodes as are free.
    """
    with cluster.configure(CTLPARAMS="preempt_send_user_signal"):
        run.submit(nodes="1-2")
        run.at_work(1)
        high = cluster.fill()
        cluster.wait(high, "RUNNING", 60)
        one = cluster.submit("exec sleep 3600", "--partition=main", "--nodelist=n2", "--exclusive")
        cluster.cancel(high)
        run.at_work(2)
    cluster.cancel(one)
    cluster.wait(one, "CANCELLED")
    cluster.run("scancel", "--signal=USR2", run.job)
    run.at_work(3)
    assert [event["ranks"] for event in run.events("started")] == [2, 1, 2]
    stops = run.events("stopped")
    assert stops[0]["signal"] == "SIGUSR2"
    assert [event["step"] for event in run.events("started")[1:]] == [s["step"] for s in stops]
    steps = run.taken()
    assert steps == list(range(len(steps))), "each once"
    done = subprocess.run(
        command(["cancel", str(run.folder)]), env=environment(), capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert run.job in done.stdout
    run.ended("CANCELLED")
    cluster.until(lambda: not run.ranks(), 10)
    time.sleep(8)  # longer than a requeued job waits
    assert cluster.job(run.job)["JobState"] == "CANCELLED"
    assert len(run.events("requeued")) == 2
    assert run.events("stopped")[2]["saved"], "what was done is not lost either"


def test_two_starts_at_once_and_a_controller_that_is_away(
    cluster: Cluster, run: Run, zygote: Zygote, face_shards: Path, tmp_path: Path
) -> None:
    """A node's daemon dies, and its processes live on beside the job's next start elsewhere."""
    undisturbed = zygote.start(tiny(face_shards, tmp_path, trainer__epochs=EPOCHS))
    assert undisturbed.ended, undisturbed.log
    run.submit(nodes=1)  # of several ranks, both starts would want one port of this machine
    run.at_work(1)
    node = int(cluster.job(run.job)["BatchHost"].removeprefix("n"))
    with asleep(run.ranks()):  # or they might end before SLURM has noticed
        cluster.slurmd_kill(node)
        cluster.until((run.folder / CLAIM_NAME).exists, 120)
        assert cluster.job(run.job)["BatchHost"] != f"n{node}"
    run.at_work(2)
    with cluster.without_controller():
        os.kill(run.ranks()[-1], signal.SIGTERM)
        cluster.until(lambda: "in an unknown state: wait" in run.log(), 60)
    run.ended()
    assert_same_training(tmp_path / "tiny", run.folder)
    assert_nothing_twice(run, kills=0)
    assert len(run.events("started")) == 3
    assert len(run.events("requeued")) == 1, "the older one has left that to SLURM"
    assert "is still trained by an earlier start of this job" in run.log()
    cluster.node_start(node)


def test_the_time_limit(cluster: Cluster, run: Run, container: str) -> None:
    """USR2 before the limit; the job, in a container, goes back into the queue and continues."""
    run.options.append("--trainer.epochs=2000")
    # SLURM looks every 30 s, and may be 60 s early: the signal comes from the 30th second on.
    run.submit(time="2:00", signal_seconds=60, container=container)
    run.at_work(1)
    with asleep(run.ranks()):
        cluster.until(lambda: run.events("requeued"), 120)
    [stop] = run.events("stopped")
    assert stop["signal"] == "SIGUSR2"
    run.at_work(2)
    assert run.events("started")[1]["step"] == stop["step"] > 0
    assert cluster.job(run.job)["Restarts"] == "1"


def test_a_job_that_was_started_often_enough_stays_down(cluster: Cluster, run: Run) -> None:
    run.submit(max_requeues=0)
    run.at_work(1)
    cluster.run("scancel", "--signal=USR2", run.job)
    run.ended("FAILED")
    assert "restarted 0 times, which is its limit" in run.events("failed")[0]["error"]
    status = subprocess.run(
        command(["status", str(run.folder), "--json"]), env=environment(), capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    [row] = json.loads(status.stdout)
    assert row["state"] == "failed"
    assert re.search("limit", row["reason"])


def test_a_node_that_fails_its_probe_is_left_out_of_the_next_start(
    cluster: Cluster, run: Run, tmp_path: Path
) -> None:
    """It cannot write to its folder for temporary files; the job goes on with the other node."""
    prolog = tmp_path / "prolog"  # srun has each task's environment from it
    prolog.write_text('#!/bin/sh\n[ "$(hostname)" != n2 ] || echo export TMPDIR=/proc\n')
    prolog.chmod(0o755)
    run.options.append("--trainer.epochs=1")
    run.submit(nodes="1-2", srun=[f"--task-prolog={prolog}"])
    run.ended()
    [probed] = run.events("probed")
    [why] = probed["bad"].pop("n2")
    assert why.startswith("TMPDIR=/proc cannot be written: ")
    assert probed["bad"] == {}
    [requeued] = run.events("requeued")
    assert (requeued["excluded"], requeued["error"]) == (["n2"], f"node n2 failed its probe: {why}")
    assert [event["nodes"] for event in run.events("started")] == [["n1"]]
    assert run.taken() == list(range(STEPS))
    assert cluster.job(run.job)["ExcNodeList"] == "n2"
    found = {}
    for verb in ("status", "nodes"):
        done = subprocess.run(
            command([verb, str(run.folder), "--json"]), env=environment(), capture_output=True,
            text=True, check=True,
        )  # fmt: skip
        found[verb] = json.loads(done.stdout)
    assert found["status"][0]["state"] == "finished"
    assert found["status"][0]["excluded"] == ["n2"]
    n1, n2 = found["nodes"]
    assert (n1["node"], n1["starts"], n1["steps"], n1["failures"]) == ("n1", 1, STEPS, [])
    assert (n2["node"], n2["starts"], n2["counts"]["probe"]) == ("n2", 0, 1)
