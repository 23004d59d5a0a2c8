"""`launch/torchrun.sh` with real processes: restarts, several machines, an elastic number of them.

A machine is an agent here; agents on one host meet over the loopback interface as they would over
a network.
"""

import base64
import contextlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from pattlite_dist.tracking.record import RECORD_NAME, read_metrics
from tests.conftest import ROOT, environment, tiny
from tests.gpus import site
from tests.starts import Zygote
from tests.train.harness import alive, asleep, assert_same_training, final

SCRIPT = ROOT / "launch" / "torchrun.sh"
LIMIT = 150.0  # seconds
STEPS = 13  # an epoch
EPOCHS = 4
TIMEOUT = 0.3  # minutes
# torchrun's own: 30 s for others to come once enough are there, 15 s until one counts as lost.
QUICK = "keep_alive_interval=1,last_call_timeout=2"
slow = pytest.mark.slow


def variables(**extra: str) -> dict[str, str]:
    kept = environment(**{"PYTHON": sys.executable, **extra})
    own = ("NPROC", "NNODES", "RDZV", "RDZV_ID", "MAX_RESTARTS")
    return {key: value for key, value in kept.items() if key not in own or key in extra}


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"NPROC": "0"}, "NPROC=0 is not a number of processes"),
        ({"NPROC": "gpu"}, "NPROC=gpu is not a number of processes"),
        ({"NPROC": "-1"}, "NPROC=-1 is not a number of processes"),
        ({"MAX_RESTARTS": "often"}, "MAX_RESTARTS=often is not a number"),
        ({"MAX_RESTARTS": "-1"}, "MAX_RESTARTS=-1 is not a number"),
        ({"NNODES": "0"}, "NNODES=0 is neither"),
        ({"NNODES": "two"}, "NNODES=two is neither"),
        ({"NNODES": "1:"}, "NNODES=1: is neither"),
        ({"NNODES": "1:2:3"}, "NNODES=1:2:3 is neither"),
        ({"NNODES": "4:2", "RDZV": "h:1"}, "NNODES=4:2 ends before it begins"),
        ({"NNODES": "2"}, "NNODES=2 needs RDZV=host:port"),
        ({"NNODES": "1:2"}, "NNODES=1:2 needs RDZV=host:port"),
        ({"RDZV": "h:1"}, "RDZV=h:1 is set, but NNODES is 1"),
        ({"NNODES": "2", "RDZV": "h:port"}, "RDZV=h:port is not host:port"),
        ({"NNODES": "2", "RDZV": "h:99999"}, "RDZV=h:99999 is not host:port"),
        ({"NNODES": "2", "RDZV": "a b:1"}, "RDZV=a b:1 is not host:port"),
        ({"NNODES": "2", "RDZV": "::1:29400"}, "RDZV=::1:29400 is not host:port"),
    ],
)
def test_a_wrong_variable_is_one_line_and_status_2(env: dict[str, str], message: str) -> None:
    done = subprocess.run(
        [SCRIPT, "train"], env=variables(**env), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"torchrun.sh: error: {message}")
    assert done.stderr.count("\n") == 1


def test_without_a_verb_the_usage_is_told() -> None:
    done = subprocess.run([SCRIPT], env=variables(), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ")
    assert done.stderr.count("\n") == 1


# Counts processes as it is told to, and else shows what it was called with.
_PYTHON = """#!/bin/sh
if [ "$2" = pattlite_dist.runtime.devices ]; then exec ${COUNT:-false}; fi
if [ "$2" = pattlite_dist.runtime.limits ]; then exec echo 6; fi
echo "$OMP_NUM_THREADS"
shift 2
printf "%s\\n" "$@"
"""


@pytest.fixture
def script_calls(tmp_path: Path) -> Callable[..., list[str]]:
    """What the script would run: threads a process, then the arguments after `python -m MODULE`."""
    (tmp_path / "python").write_text(_PYTHON)
    (tmp_path / "python").chmod(0o755)

    def call(**extra: str) -> list[str]:
        env = variables(**extra)
        env.update(PATH=f"{tmp_path}:{env['PATH']}", PYTHON=str(tmp_path / "python"))
        env.pop("OMP_NUM_THREADS", None)
        done = subprocess.run(
            [SCRIPT, "train", "--name", "a b"], env=env, capture_output=True, text=True, check=True
        )
        return done.stdout.splitlines()

    return call


def test_a_workstation_shares_its_cores_between_its_processes(
    script_calls: Callable[..., list[str]],
) -> None:
    words = ["-m", "pattlite_dist", "train", "--name", "a b"]
    for given, processes, threads in (
        ({"COUNT": "echo 1"}, 1, 6), ({"NPROC": "2"}, 2, 3), ({"NPROC": "9"}, 9, 1),
        ({"COUNT": "echo 4"}, 4, 1), ({"COUNT": "echo 4", "NPROC": "3"}, 3, 2),
    ):  # fmt: skip
        assert script_calls(**given) == [
            f"{threads}", "--standalone", f"--nproc-per-node={processes}", "--max-restarts=100",
            *words,
        ]  # fmt: skip


@pytest.mark.parametrize("where", ["first:29400", "first", "10.0.0.1:1", "[fe80::1]:65535"])
def test_several_machines_meet_at_one_of_them(
    where: str, script_calls: Callable[..., list[str]]
) -> None:
    for nodes, name in (("2", None), ("1:4", "mine")):
        given = {"RDZV_ID": name} if name else {}
        words = script_calls(COUNT="echo 1", NNODES=nodes, RDZV=where, MAX_RESTARTS="0", **given)
        assert words[1:7] == [
            f"--nnodes={nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={where}",
            f"--rdzv-id={name or 'pattlite'}", "--nproc-per-node=1", "--max-restarts=0",
        ]  # fmt: skip


@slow
@pytest.mark.parametrize(("gpus", "processes"), [(0, 1), (1, 1), (3, 3)])
def test_a_process_is_started_for_each_gpu_that_torch_sees(
    gpus: int, processes: int, script_calls: Callable[..., list[str]], tmp_path: Path
) -> None:
    path = f"{site(tmp_path / 'site', gpus)}:{ROOT}"
    words = script_calls(
        COUNT=f"{sys.executable} -m pattlite_dist.runtime.devices 1", PYTHONPATH=path
    )
    assert words[2] == f"--nproc-per-node={processes}"


def test_where_processes_cannot_be_counted_none_are_started(
    script_calls: Callable[..., list[str]],
) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        script_calls()


@pytest.mark.parametrize(("asked", "processes"), [(None, "7"), ("3", "3")])
def test_the_demo_starts_as_many_processes_as_are_counted(
    asked: str | None, processes: str, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\n[ "$*" = "-m pattlite_dist.runtime.devices 2" ] && echo 7\n')
    python.chmod(0o755)
    done = subprocess.run(
        ["make", "-n", "demo", f"BIN={tmp_path}", *([f"NPROC={asked}"] if asked else [])],
        cwd=ROOT, env=variables(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    for verb in ("train", "evaluate"):
        assert f"NPROC={processes} launch/torchrun.sh {verb} " in done.stdout


class Agent:
    """A call of the script, or of another program, and all that comes of it."""

    def __init__(
        self, arguments: list[str], log: Path, program: Sequence[str | Path] = (SCRIPT,), **env: str
    ) -> None:
        self.path, self.pid_file = log, log.with_suffix(".pid")
        env = variables(PID_FILE=str(self.pid_file), **env)
        with log.open("w") as stream:
            self.process = subprocess.Popen(
                [*program, *arguments], env=env, stdout=stream, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        """That of torchrun's agent, which `tests.warm` may have forked for `self.process`."""
        told = self.pid_file.read_text() if self.pid_file.exists() else ""
        return int(told or self.process.pid)

    @property
    def log(self) -> str:
        return self.path.read_text()

    def workers(self) -> list[int]:
        """Its processes that train, each the leader of a session of its own."""
        found, agent = [], self.pid
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                _, parent, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(parent) == agent and session == entry.name:
                    found.append(int(entry.name))
        return sorted(found)

    def lose(self) -> None:
        """End all of it at once, as a machine that loses its power."""
        if self.process.poll() is not None:  # another process may have its number by now
            return
        workers = self.workers()
        for pid in (self.pid, self.process.pid, *workers):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        self.process.wait()

    def wait(self) -> int:
        return self.process.wait(timeout=LIMIT)


@pytest.fixture
def agents(forking_python: str, tmp_path: Path) -> Iterator[Callable[..., Agent]]:
    """Starts agents; afterwards none of them, nor of their processes, is left.

    They and their workers are forked, unless `PYTHON` says otherwise.
    """
    started: list[Agent] = []

    def begin(arguments: list[str], program: Sequence[str | Path] = (SCRIPT,), **env: str) -> Agent:
        env = {"PYTHON": forking_python, **env}
        agent = Agent(arguments, tmp_path / f"agent-{len(started)}.log", program, **env)
        started.append(agent)
        return agent

    yield begin
    for agent in started:
        agent.lose()


def until(ready: Callable[[], Any], agents: list[Agent]) -> Any:
    """What `ready` gives once it gives something; stops early where an agent has ended."""
    deadline = time.monotonic() + LIMIT
    while not (value := ready()):
        logs = "\n".join(agent.log for agent in agents)
        assert all(agent.process.poll() is None for agent in agents), logs
        assert time.monotonic() < deadline, logs
        time.sleep(0.02)
    return value


def step(run: Path) -> int:
    """The newest in a run's record."""
    record = run / RECORD_NAME
    lines = record.read_bytes().splitlines(keepends=True)[-2:] if record.exists() else []
    whole = [line for line in lines if line.endswith(b"\n")]  # the last may still be written
    return int(json.loads(whole[-1])["step"]) if whole else -1


@pytest.fixture
def address() -> Iterator[str]:
    """Where agents can meet; nobody else is given its port."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))  # an agent may listen there all the same
        yield f"127.0.0.1:{held.getsockname()[1]}"


@pytest.fixture(scope="module")
def whole(zygote: Zygote, face_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of two processes, which no agent has started."""
    runs = tmp_path_factory.mktemp("whole")
    start = zygote.start(tiny(face_shards, runs, trainer__epochs=EPOCHS), 2)
    assert start.ended, start.log
    return runs / "tiny"


def arguments(shards: Path, runs: Path, epochs: int = EPOCHS) -> list[str]:
    return tiny(shards, runs, trainer__epochs=epochs, trainer__checkpoint_every_steps=4)


@slow
def test_where_a_worker_is_killed_all_go_on_from_the_last_checkpoint(
    whole: Path, face_shards: Path, tmp_path: Path, agents: Callable[..., Agent]
) -> None:
    run = tmp_path / "tiny"
    agent = agents(arguments(face_shards, tmp_path), NPROC="2", PYTHON=sys.executable)
    until(lambda: step(run) >= STEPS, [agent])
    before = agent.workers()
    assert len(before) == 2
    os.kill(before[1], signal.SIGKILL)
    until(lambda: len(set(agent.workers()) - set(before)) == 2, [agent])
    assert agent.wait() == 0, agent.log
    assert "tiny: continues from epoch=" in agent.log
    assert_same_training(whole, run)
    assert not alive(before)


@slow
def test_two_machines_train_as_two_processes_of_one_also_when_killed_or_suspended(
    whole: Path,
    face_shards: Path,
    tmp_path: Path,
    agents: Callable[..., Agent],
    address: str,
) -> None:
    run = tmp_path / "tiny"
    options = [*arguments(face_shards, tmp_path), f"--trainer.timeout_minutes={TIMEOUT}"]
    both = [agents(options, NPROC="1", NNODES="2", RDZV=address) for _ in range(2)]
    until(lambda: step(run) >= STEPS, both)
    before = [agent.workers() for agent in both]
    assert [len(pids) for pids in before] == [1, 1]
    os.kill(before[1][0], signal.SIGKILL)
    until(lambda: "continues from epoch=" in both[0].log + both[1].log, both)
    at = step(run)
    until(lambda: step(run) > at, both)
    all_of_it = [pid for agent in both for pid in (agent.pid, *agent.workers())]
    with asleep(all_of_it):
        time.sleep(60 * TIMEOUT + 1)  # after which neither ranks nor machines wait for each other
    assert [agent.wait() for agent in both] == [0, 0], both[0].log + both[1].log
    assert "2 rank(s)" in both[0].log + both[1].log
    assert "continues from epoch=" in both[0].log + both[1].log
    assert_same_training(whole, run)


@slow
def test_a_machine_that_is_lost_is_done_without_and_may_come_back(
    face_shards: Path, tmp_path: Path, agents: Callable[..., Agent], address: str
) -> None:
    run = tmp_path / "tiny"
    env = {"NPROC": "1", "NNODES": "1:2", "RDZV": address, "PET_RDZV_CONF": QUICK}
    options = arguments(face_shards, tmp_path, epochs=60)

    def said(word: str) -> int:
        return sum(path.read_text().count(word) for path in tmp_path.glob("agent-*.log"))

    first = agents(options, **env)  # it holds the address where they meet
    until(lambda: first.workers(), [first])
    second = agents(options, **env)
    until(lambda: said("; 2 rank(s)") and step(run) >= STEPS, [first, second])
    second.lose()
    alone = said("; 1 rank(s)")
    begin = time.monotonic()
    until(lambda: said("; 1 rank(s)") > alone, [first])
    print(f"alone after {time.monotonic() - begin:.1f} s")
    at = step(run)
    until(lambda: step(run) > at, [first])
    together = said("; 2 rank(s)")
    third = agents(options, **env)
    until(lambda: said("; 2 rank(s)") > together, [first, third])
    at = step(run)
    until(lambda: step(run) > at, [first, third])
    for agent in (first, third):
        agent.process.terminate()
    assert [agent.wait() for agent in (first, third)] == [143, 143], first.log + third.log
    recorded = [line["step"] for line in read_metrics(run / RECORD_NAME) if "train/loss" in line]
    assert recorded == list(range(len(recorded)))  # each once, whoever took it
    assert len(recorded) == final(run)["global_step"]


@slow
def test_one_goes_on_alone_to_the_end(
    face_shards: Path, tmp_path: Path, agents: Callable[..., Agent], address: str
) -> None:
    run = tmp_path / "tiny"
    env = {"NPROC": "1", "NNODES": "1:2", "RDZV": address, "PET_RDZV_CONF": QUICK}
    both = [agents(arguments(face_shards, tmp_path), **env) for _ in range(2)]
    until(lambda: "; 2 rank(s)" in both[0].log + both[1].log and step(run) >= STEPS, both)
    # The one that holds the address must stay: it is the one that listens there.
    host, other = sorted(both, key=lambda agent: agent.pid not in listeners(env["RDZV"]))
    other.lose()
    assert host.wait() == 0, host.log
    assert "continues from epoch=" in host.log
    assert "; 1 rank(s)" in host.log
    assert final(run)["global_step"] == EPOCHS * STEPS
    recorded = [line["step"] for line in read_metrics(run / RECORD_NAME) if "train/loss" in line]
    assert recorded == list(range(EPOCHS * STEPS))


def listeners(address: str) -> set[int]:
    """Processes that listen at a port."""
    port = f":{int(address.rpartition(':')[2]):04X}"
    tables = [Path("/proc/net/tcp"), Path("/proc/net/tcp6")]
    rows = [line.split() for table in tables for line in table.read_text().splitlines()[1:]]
    inodes = {f"socket:[{row[9]}]" for row in rows if row[1].endswith(port) and row[3] == "0A"}
    found = set()
    for entry in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if str(entry.readlink()) in inodes:
                found.add(int(entry.parts[2]))
    return found


def waiting(address: str) -> int:
    """How many agents have come to where they meet, and wait for others."""
    host, _, port = address.partition(":")
    # Until one has come, there is no store, or nothing in it.
    with contextlib.suppress(RuntimeError, ValueError, pickle.UnpicklingError):
        store = TCPStore(host, int(port), is_master=False, timeout=timedelta(seconds=5))  # type: ignore[attr-defined]
        if store.check(["torch.rendezvous.pattlite"]):
            state = base64.b64decode(store.get("torch.rendezvous.pattlite"))
            return len(pickle.loads(state).participants)
    return 0


@slow
def test_an_agent_that_met_nobody_says_so_and_one_that_loses_the_place_may_try_again(
    tmp_path: Path, agents: Callable[..., Agent], address: str
) -> None:
    env = {"NPROC": "1", "NNODES": "3", "RDZV": address}
    (tmp_path / "logs" / "pattlite_x" / "attempt_0").mkdir(parents=True)  # of an earlier call
    early = {"PET_RDZV_CONF": "is_host=0,read_timeout=1", "PET_LOG_DIR": str(tmp_path / "logs")}
    alone = agents(["train"], **env, **early)
    assert alone.wait() == 2, alone.log
    assert "the machines could not connect" in alone.log
    host = agents(["train"], **env)
    until(lambda: waiting(address) == 1, [host])
    other = agents(["train"], **env)
    until(lambda: waiting(address) == 2, [host, other])
    host.lose()
    assert other.wait() == 1, other.log
    assert "the machine where all meet is lost" in other.log


@slow
def test_a_worker_killed_once_too_often_is_told_without_a_traceback_of_torchrun(
    face_shards: Path, tmp_path: Path, agents: Callable[..., Agent]
) -> None:
    run = tmp_path / "tiny"
    agent = agents(arguments(face_shards, tmp_path), NPROC="1", MAX_RESTARTS="0")
    until(lambda: step(run) >= 3, [agent])
    os.kill(agent.workers()[0], signal.SIGKILL)
    assert agent.wait() == 1
    assert "training ended with exit status (rank 0: -9)" in agent.log
    assert "Traceback" not in agent.log


@slow
def test_workers_that_do_not_end_are_killed_within_the_grace_period(
    tmp_path: Path, agents: Callable[..., Agent], warm_python: str
) -> None:
    begun = tmp_path / "begun"
    deaf = ["--no-python", "sh", "-c", f"trap '' TERM; touch {begun}; exec sleep 300"]
    agent = agents(
        ["--standalone", "--nproc-per-node=1", *deaf],
        program=(warm_python, "-u", "-m", "pattlite_dist.runtime.elastic"),
        PATTLITE_GRACE_SECONDS="6",
    )
    until(begun.exists, [agent])
    asked = time.monotonic()
    os.kill(agent.pid, signal.SIGTERM)
    assert agent.wait() == 128 + signal.SIGTERM, agent.log
    # One second after the signal; torchrun's own patience is 30.
    assert time.monotonic() - asked < 25
    assert agent.log.splitlines()[-1] == "pattlite: stopped by SIGTERM"


@slow
def test_a_users_mistake_is_one_line_and_is_not_tried_again(
    face_shards: Path, tmp_path: Path, agents: Callable[..., Agent]
) -> None:
    wrong = tiny(face_shards, tmp_path, trainer__global_batch=9)
    agent = agents(wrong, NPROC="2")
    assert agent.wait() == 2, agent.log
    lines = [line for line in agent.log.splitlines() if "srun" not in line]
    assert len(lines) == 1, agent.log
    (line,) = lines
    assert line.startswith("pattlite: error: a global batch of 9 cannot be shared by 2 ranks")
    assert not (tmp_path / "tiny").exists()
