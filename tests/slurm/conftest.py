"""The test cluster, for the tests marked `slurm`; `cluster.sh` beside this file makes it.

There may be a second one, so that two runs of tests need not wait for each other.
"""

import contextlib
import getpass
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest
from filelock import FileLock, Timeout

from tests.conftest import ROOT
from tests.workers import cluster_conf

CLUSTERS = (1, 2)
# What a job needs in a container besides /tmp.
BOUND = [
    "/usr",
    *dict.fromkeys(
        path
        for path in (sys.base_prefix, str(ROOT), sys.prefix)
        if not Path(path).is_relative_to("/usr")
    ),
]
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

    number: int = 1
    nodes: int = 2
    cpus: int = 4

    @property
    def name(self) -> str:
        return self.conf.parent.name

    @property
    def conf(self) -> Path:
        return cluster_conf(self.number)

    @property
    def variables(self) -> dict[str, str]:
        """What commands find it by."""
        return {"CLUSTER": str(self.number), "SLURM_CONF": str(self.conf)}

    def run(self, *argv: str | Path) -> str:
        """A command's standard output; raises with what it said on the other, if it fails."""
        done = subprocess.run(
            argv, env={**os.environ, **self.variables}, capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip
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

    def slurmd_kill(self, n: int) -> None:
        """End the node's daemon; its jobs live on, though SLURM counts it as lost after a while."""
        self.run(SCRIPT, "slurmd-kill", str(n))

    @contextlib.contextmanager
    def without_controller(self) -> Iterator[None]:
        """Within it SLURM does not answer; jobs live on."""
        self.run(SCRIPT, "slurmctld-stop")
        try:
            yield
        finally:
            self.run(SCRIPT, "slurmctld-start")

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
    """What keeps tests from the first cluster. A SLURM that people work with is never used."""
    if shutil.which("scontrol") is None:
        return "SLURM is not installed here"
    try:
        name = cluster_name(os.environ)
    except subprocess.TimeoutExpired:
        return "SLURM does not answer"
    if name is None:
        return "no cluster runs here"
    if name != Cluster().name:
        return f"the cluster here is {name}, which tests do not touch"
    return None if os.geteuid() == 0 else "it runs, but only root can stop and start its nodes"


def cluster_name(env: Mapping[str, str]) -> str | None:
    """The name of the cluster that answers, if one does."""
    argv = ["scontrol", "show", "config"]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=30, check=False)
    name = re.search(r"^ClusterName\s*=\s*(\S+)", done.stdout, re.MULTILINE)
    return name[1] if name else None


@pytest.fixture(scope="session")
def clusters() -> list[Cluster]:
    """The running test clusters; without one the test is skipped, which in CI is a failure."""
    if reason := why_not():
        pytest.skip(
            f"{DID_NOT_RUN}: {reason}; as root on Debian or Ubuntu start one with "
            f"`{START}`, then run `make test`"
        )
    others = [Cluster(number) for number in CLUSTERS[1:]]
    return [Cluster()] + [
        other for other in others
        if other.conf.exists() and cluster_name({**os.environ, **other.variables}) == other.name
    ]  # fmt: skip


@pytest.fixture
def cluster(clusters: list[Cluster]) -> Iterator[Cluster]:
    """A cluster for this test alone, which SLURM's commands talk to meanwhile."""
    with taken(clusters) as found, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(found.conf))
        found.clear()
        yield found
        found.clear()


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image for Charliecloud that has nothing but places for what is bound into it."""
    folder = tmp_path_factory.mktemp("image") / "image"
    for place in ("/dev", "/proc", "/sys", "/tmp", "/etc", "/home", *BOUND):
        (folder / place[1:]).mkdir(parents=True, exist_ok=True)
    for name in ("passwd", "group", "hosts"):  # Charliecloud writes them
        (folder / "etc" / name).touch()
    for cluster in CLUSTERS:
        (folder / str(Cluster(cluster).conf.parent)[1:]).mkdir(parents=True)
    for name in ("bin", "lib", "lib64", "sbin"):
        if Path("/", name).is_symlink():
            (folder / name).symlink_to(Path("/", name).readlink())
    return folder


@pytest.fixture
def container(cluster: Cluster, image: Path) -> str:
    """For a profile: Charliecloud, with this Python, this package and SLURM's files bound."""
    bound = [*BOUND, str(cluster.conf.parent)]
    user = f"USER={getpass.getuser()}"  # ch-run asks for it, and not every SLURM sets it
    return shlex.join(
        ["env", user, "ch-run", *(f"--bind={place}" for place in bound), str(image), "--"]
    )


@contextlib.contextmanager
def taken(clusters: list[Cluster]) -> Iterator[Cluster]:
    """One that no other test uses, also of other test runs; the first that is free."""
    while True:
        for cluster in clusters:
            lock = FileLock(f"/run/lock/{cluster.name}.lock", timeout=0)
            try:
                lock.acquire()
            except Timeout:
                continue
            try:
                yield cluster
            finally:
                lock.release()
            return
        time.sleep(0.1)


@pytest.fixture(autouse=True)
def _alone_on_the_cluster(request: pytest.FixtureRequest) -> None:
    # Before the test's other fixtures, so that it is cleared after what they undo.
    if request.node.get_closest_marker("slurm") or "cluster" in request.fixturenames:
        request.getfixturevalue("cluster")
