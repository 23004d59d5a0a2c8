"""The test cluster, for the tests marked `slurm`; `cluster.sh` beside this file makes it."""

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest
from filelock import FileLock

NAME = "pattlite-test"
SCRIPT = Path(__file__).with_name("cluster.sh")
START = "tests/slurm/cluster.sh install && tests/slurm/cluster.sh start"
DID_NOT_RUN = "needs the SLURM test cluster"
UP = re.compile("(idle|mixed|allocated|completing|planned)-?")
T = TypeVar("T")


@dataclass(frozen=True)
class Cluster:
    """Two nodes, n1 and n2, of four CPUs and two make-believe GPUs each.

    Partition `main` preempts `preempt`, whose jobs are requeued.
    """

    nodes: int = 2
    cpus: int = 4

    def run(self, *argv: str | Path) -> str:
        """A command's standard output; raises with what it said on the other, if it fails."""
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            command = shlex.join(str(word) for word in argv)
            raise RuntimeError(f"{command}: exit status {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def submit(self, script: str, *options: str) -> str:
        """The id of a job that runs this line of shell, its output thrown away by default."""
        argv = ("sbatch", "--parsable", "--output=/dev/null", *options, f"--wrap={script}")
        return self.run(*argv).strip()

    def job(self, job_id: str) -> dict[str, str]:
        """What `scontrol show job` says: JobState, Restarts, Reason, NodeList and many more.

        Of an array, its first task still known; name another as `12_3`.
        """
        return parse_job(self.run("scontrol", "--oneliner", "show", "job", job_id))

    def wait(self, job_id: str, states: str | Collection[str], seconds: float = 90) -> str:
        """Wait until the job is in one of the states, and say in which."""
        wanted = {states} if isinstance(states, str) else set(states)
        deadline = time.monotonic() + seconds
        while (record := self.job(job_id))["JobState"] not in wanted:
            if time.monotonic() > deadline:
                pytest.fail(f"job {job_id} is not {wanted} after {seconds} s: {record}")
            time.sleep(0.1)
        return record["JobState"]

    def until(self, predicate: Callable[[], T], seconds: float = 90) -> T:
        """Wait for something true, and return it."""
        deadline = time.monotonic() + seconds
        while not (found := predicate()):
            if time.monotonic() > deadline:
                nodes = [self.node(n) for n in range(1, self.nodes + 1)]
                queue = self.queue()
                pytest.fail(f"still {found!r} after {seconds} s; queue {queue}, nodes {nodes}")
            time.sleep(0.1)
        return found

    def queue(self) -> list[str]:
        """Ids of the jobs that have not ended, one for each task of an array."""
        return self.run("squeue", "--noheader", "--array", "--format=%A").split()

    def node(self, n: int) -> str:
        """The node's state: idle, mixed, allocated; `down*` where it does not answer."""
        return self.run("sinfo", "-h", "-N", "-p", "main", "-n", f"n{n}", "-o", "%T").strip()

    def node_kill(self, n: int) -> None:
        """Take the node's power: slurmd and every process of its jobs are gone at once.

        SLURM notices about 20 seconds later.
        """
        self.run(SCRIPT, "node-kill", str(n))

    def node_start(self, n: int) -> None:
        """Bring the node back, and wait until SLURM uses it."""
        self.run(SCRIPT, "node-start", str(n))

    @contextlib.contextmanager
    def configure(self, **settings: object) -> Iterator[None]:
        """Within it the cluster has other settings, of those that `cluster.sh` names."""
        try:
            self.run(SCRIPT, "reconfigure", *(f"{k}={v}" for k, v in settings.items()))
            yield
        finally:
            self.run(SCRIPT, "reconfigure")

    def fill(self, partition: str = "main") -> str:
        """Submit a job that takes every CPU; in `main` it preempts what runs in `preempt`."""
        options = (f"--partition={partition}", f"--nodes={self.nodes}", "--exclusive")
        return self.submit("exec sleep 3600", "--job-name=fill", *options)

    def cancel(self, job_id: str) -> None:
        self.run("scancel", job_id)

    def clear(self) -> None:
        """Both nodes up, and no job left."""
        for n in range(1, self.nodes + 1):
            if not UP.fullmatch(self.node(n)):
                self.node_start(n)

        began = time.monotonic()

        def empty() -> bool:
            jobs, steps = self.queue(), self.run("squeue", "-h", "--steps", "--format=%i").split()
            steps = [step for step in steps if step.rpartition(".")[2].isdigit()]
            if steps and time.monotonic() - began < 5:
                # Not after KillWait, though tasks ignore SIGTERM; nor their srun before them, for
                # which they would wait. A job that waits must not start meanwhile.
                scancel("--state=PENDING", *jobs)
                scancel("--signal=KILL", *steps)
            elif jobs:
                scancel(*jobs)
            return not jobs

        self.until(empty, 60)


def scancel(*arguments: str) -> None:
    """As far as these have not just ended."""
    argv = ["scancel", "--quiet", *arguments]
    subprocess.run(argv, capture_output=True, timeout=60, check=False)


def parse_job(text: str) -> dict[str, str]:
    """The fields in the first line of `scontrol --oneliner show job`."""
    line = text.partition("\n")[0]
    return dict(re.findall(r"(\S+?)=(.*?)(?=\s+[A-Z][\w/:]*=|\s*$)", line))


def why_not() -> str | None:
    """What keeps tests from the cluster. A SLURM that people work with is never used."""
    if shutil.which("scontrol") is None:
        return "SLURM is not installed here"
    try:
        argv = ["scontrol", "show", "config"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    except subprocess.TimeoutExpired:
        return "SLURM does not answer"
    name = re.search(r"^ClusterName\s*=\s*(\S+)", done.stdout, re.MULTILINE)
    if name is None:
        return "no cluster runs here"
    if name[1] != NAME:
        return f"the cluster here is {name[1]}, which tests do not touch"
    return None if os.geteuid() == 0 else "it runs, but only root can stop and start its nodes"


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """The running test cluster; without one the test is skipped, which in CI is a failure."""
    if reason := why_not():
        pytest.skip(
            f"{DID_NOT_RUN}: {reason}; as root on Debian or Ubuntu start one with "
            f"`{START}`, then run `make test`"
        )
    return Cluster()


@pytest.fixture(autouse=True)
def _alone_on_the_cluster(request: pytest.FixtureRequest) -> Iterator[None]:
    # One test at a time, also of several test runs, and none finds another's jobs.
    if not request.node.get_closest_marker("slurm") and "cluster" not in request.fixturenames:
        yield
        return
    found: Cluster = request.getfixturevalue("cluster")
    with FileLock(f"/run/lock/{NAME}.lock"):
        found.clear()
        yield
        found.clear()
