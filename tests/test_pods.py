"""What `pattlite render` prints, run on pods and machines with a network between them.

One run in a bucket. Pods of Kubernetes train it until one of them is lost and another is drained;
then machines of SkyPilot, of which a cloud takes one back. Whoever comes finds an empty disk.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from pattlite_dist.buckets import copies
from pattlite_dist.buckets.head import HEAD, parse_head
from pattlite_dist.buckets.shelf import Bucket
from pattlite_dist.buckets.state import parse_state
from pattlite_dist.cli import main
from tests.conftest import tiny
from tests.metadata_server import AWS, Cloud, served
from tests.nodes import Node, listener, machines
from tests.shards.s3_server import new_bucket, s3_clients, s3_environment, s3_server
from tests.starts import Zygote
from tests.test_torchrun import QUICK, Agent, until
from tests.train.harness import assert_same_training

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces, which needs root"),
]
METADATA = "169.254.169.254"  # as in each of the three clouds
FIRST = "pattlite-tiny-0.pattlite-tiny"
LOST, DRAINED, TAKEN = 9, 21, 33  # steps
EPOCHS = 4
STEPS = 4 * 13
OPTIONS = {"trainer.epochs": EPOCHS, "trainer.checkpoint_every_steps": 4}
PROFILE = "{nodes: 2, gpus_per_node: 0, cpus_per_task: 1, signal_seconds: 60}"


@dataclass(frozen=True)
class Place:
    """Where the machines are.

    Attributes:
        nodes: of them, the first is the cloud itself.
        env: of each, so that it reaches the bucket and finds `python`.
        address: of the folder of runs.
        cloud: its metadata service.
        holds: where steps are reached, and gone on from.
    """

    nodes: list[Node]
    env: dict[str, str]
    address: str
    cloud: Cloud
    holds: Path

    def reached(self, step: int, agents: list[Agent]) -> None:
        until((self.holds / f"{step}.reached").exists, agents)

    def go_on(self, step: int) -> None:
        (self.holds / f"{step}.go").touch()


@pytest.fixture(scope="module")
def place(forking_python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("place")
    (folder / "bin").mkdir()
    (folder / "bin" / "python").symlink_to(forking_python)
    (folder / "holds").mkdir()
    hosts = f"127.0.0.1 localhost\n10.77.0.2 {FIRST}\n"
    with contextlib.ExitStack() as stack:
        cloud, *others = nodes = stack.enter_context(machines(folder, [hosts] * 4))
        cloud.run("ip", "addr", "add", f"{METADATA}/32", "dev", "fabric")
        for node in others:
            node.run("ip", "route", "add", METADATA, "dev", "fabric")
        # moto has one content, however many servers: this process asks one, the machines the other.
        here, there = (
            stack.enter_context(s3_server(at)) for at in (None, listener(cloud, "10.77.0.1", 0))
        )
        stack.enter_context(s3_clients(**s3_environment(here)))
        service = stack.enter_context(served(Cloud(AWS), listener(cloud, METADATA, 80)))
        env = {**s3_environment(there), "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
        env["AWS_EC2_METADATA_DISABLED"] = "false"
        env |= {
            "SMALL": "1",
            "RDZV_CONF": QUICK,
            "HOLDS": f"{folder / 'holds'}:{LOST},{DRAINED},{TAKEN}",
        }
        yield Place(nodes, env, f"s3://{new_bucket(here)}/runs", service, folder / "holds")


@pytest.fixture
def started(tmp_path: Path, place: Place) -> Iterator[Callable[..., Agent]]:
    """Starts a command on a machine, with an empty disk; afterwards nothing of it is left."""
    agents: list[Agent] = []

    def start(node: Node, command: list[str], env: dict[str, str]) -> Agent:
        disk = tmp_path / f"disk-{len(agents)}"
        disk.mkdir()
        own = {"HOME": str(disk), "TMPDIR": str(disk)}
        agents.append(Agent([], disk / "log", node.inside(command), **{**place.env, **own, **env}))
        return agents[-1]

    yield start
    for agent in agents:
        agent.lose()


def rendered(
    target: str, shards: Path, place: Place, folder: Path, capsys: pytest.CaptureFixture[str]
) -> list[dict[str, Any]]:
    """The documents for two machines."""
    (folder / "profile.yaml").write_text(PROFILE)
    words = tiny(shards, place.address, **OPTIONS)[1:]
    profile = ["--profile", str(folder / "profile.yaml")]
    assert main(["render", target, "--image=faces", *profile, *words]) == 0
    return list(yaml.safe_load_all(capsys.readouterr().out))


def pods(
    documents: list[dict[str, Any]], nodes: list[Node], folder: Path
) -> tuple[list[str], dict[str, str]]:
    """Put on machines what the kubelet does; returns the containers' commands and variables."""
    config, _, job = documents
    [container] = job["spec"]["template"]["spec"]["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    for node in nodes:
        etc = folder / f"{node.name}.etc"
        node.run("cp", "-a", "/etc", str(etc))
        within = etc / Path(mounts["config"]).relative_to("/etc")
        within.mkdir(exist_ok=True)
        for name, text in config["data"].items():
            (within / name).write_text(text)
        node.run("mount", "--bind", str(etc), "/etc")
        node.run("mount", "-t", "tmpfs", "tmpfs", mounts["shm"])
    # As Kubernetes reads them.
    return container["command"], {
        item["name"]: item["value"].replace("$$", "$") for item in container["env"]
    }


def published(address: str) -> int:
    """The step of a run's newest state in the bucket; -1 if there is none."""
    shelf = Bucket(address)
    held = shelf.get(HEAD)
    states = parse_head(held.data).states if held else ()
    state = shelf.get(states[0]) if states else None
    return parse_state(state.data).step if state else -1


def test_a_run_survives_the_machines_that_it_is_given(
    place: Place,
    started: Callable[..., Agent],
    zygote: Zygote,
    face_shards: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A pod lost and replaced, the first one drained, a machine taken back: with equal weights."""
    start = zygote.with_small_networks().start(tiny(face_shards, tmp_path, **OPTIONS), 2)
    assert start.ended, start.log
    _, *nodes = place.nodes
    run = f"{place.address}/tiny"
    documents = rendered("kubernetes", face_shards, place, tmp_path, capsys)
    command, env = pods(documents, nodes, tmp_path)

    def pod(node: Node, index: int) -> Agent:
        return started(node, command, {**env, "JOB_COMPLETION_INDEX": str(index)})

    first, second = pod(nodes[0], 0), pod(nodes[1], 1)
    place.reached(LOST, [first, second])
    until(lambda: published(run) >= LOST - 1, [first, second])
    second.lose()
    third = pod(nodes[2], 1)
    place.go_on(LOST)
    place.reached(DRAINED, [first, third])
    os.kill(first.pid, signal.SIGTERM)
    assert [first.wait(), third.wait()] == [143, 75], first.log + third.log
    step = published(run)
    assert DRAINED <= step <= DRAINED + 2
    assert f"{run}: published to step {step}" in first.log

    [task] = rendered("skypilot", face_shards, place, tmp_path, capsys)
    env = {**task["envs"], "SKYPILOT_NODE_IPS": "10.77.0.2\n10.77.0.3", "SKYPILOT_NUM_NODES": "2"}

    def both() -> list[Agent]:
        shell = ["bash", "-c", task["run"]]
        return [
            started(node, shell, {**env, "SKYPILOT_NODE_RANK": str(rank)})
            for rank, node in enumerate(nodes[:2])
        ]

    begun = both()
    place.reached(TAKEN, begun)
    place.cloud.only = "10.77.0.2"
    place.cloud.take(time.time() + 120)
    assert [agent.wait() for agent in begun] == [143, 75], begun[0].log + begun[1].log
    assert "note: AWS takes this machine back in 1" in begun[0].log
    assert f"{run}: its state at step {step} is here" in begun[0].log
    assert published(run) >= TAKEN
    place.go_on(TAKEN)
    place.cloud.only = "nobody"
    ended = both()
    assert [agent.wait() for agent in ended] == [0, 0], ended[0].log + ended[1].log
    copies.copy(run, str(tmp_path / "copy"))
    assert_same_training(tmp_path / "tiny", tmp_path / "copy")


def test_a_mistake_ends_each_pod_with_the_status_that_fails_the_job(
    place: Place,
    started: Callable[..., Agent],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    documents = rendered("kubernetes", tmp_path / "forgotten", place, tmp_path, capsys)
    nodes = place.nodes[1:3]
    command, env = pods(documents, nodes, tmp_path)
    both = [
        started(node, command, {**env, "JOB_COMPLETION_INDEX": str(index)})
        for index, node in enumerate(nodes)
    ]
    assert [agent.wait() for agent in both] == [2, 2], both[0].log + both[1].log
    for agent in both:
        last = agent.log.splitlines()[-1]
        assert last.startswith("pattlite: error: ") and "/forgotten" in last
