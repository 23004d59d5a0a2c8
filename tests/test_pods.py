"""From a csv to two spot machines, as docs/cloud.md says: its commands, and what they print.

Pods and machines are network namespaces with names. Pods of Kubernetes train a run in a bucket
until one of them is lost and another is drained; then machines of SkyPilot, of which a cloud takes
one back. Whoever comes finds an empty disk.
"""

import contextlib
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from pattlite_dist.buckets.head import HEAD, parse_head
from pattlite_dist.buckets.shelf import Bucket
from pattlite_dist.buckets.state import parse_state
from pattlite_dist.cli import main
from tests.conftest import environment, tiny
from tests.documents import blocks, commands, words
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
PAGE = "docs/cloud.md"
FIRST = "pattlite-fer2013-0.pattlite-fer2013"
METADATA = "169.254.169.254"  # as in each of the three clouds
LOST, DRAINED, TAKEN = 9, 21, 33


@dataclass(frozen=True)
class Place:
    """The cloud, its machines, and the folder on the laptop.

    Attributes:
        nodes: the machines.
        env: of each, so that it reaches the bucket and finds `python`.
        bucket: as it is called on the page, and its address.
        cloud: its metadata service.
        holds: where steps are reached, and gone on from.
        folder: on the laptop.
    """

    nodes: list[Node]
    env: dict[str, str]
    bucket: tuple[str, str]
    cloud: Cloud
    holds: Path
    folder: Path

    @property
    def run(self) -> str:
        return f"{self.bucket[1]}/runs/fer2013"

    def reached(self, step: int, agents: list[Agent]) -> None:
        until((self.holds / f"{step}.reached").exists, agents)

    def go_on(self, step: int) -> None:
        (self.holds / f"{step}.go").touch()

    def command(self, verb: str) -> list[str]:
        """The only command of the page with this verb that is tested here."""
        [line] = [
            one.line
            for one in commands(PAGE)
            if one.why == "tests/test_pods.py" and one.line.startswith(f"pattlite {verb} ")
        ]
        return words(line.replace(*self.bucket))


@pytest.fixture(scope="module")
def place(
    faces_csv: Path, forking_python: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("place")
    (folder / "bin").mkdir()
    (folder / "bin" / "python").symlink_to(forking_python)
    (holds := folder / "holds").mkdir()
    hosts = f"127.0.0.1 localhost\n10.77.0.2 {FIRST}\n"
    with contextlib.ExitStack() as stack:
        cloud, *nodes = stack.enter_context(machines(folder, [hosts] * 4))
        cloud.run("ip", "addr", "add", f"{METADATA}/32", "dev", "fabric")
        for node in nodes:
            node.run("ip", "route", "add", METADATA, "dev", "fabric")
        # moto has one content, however many servers: the laptop asks one, the machines the other.
        here, there = (
            stack.enter_context(s3_server(at)) for at in (None, listener(cloud, "10.77.0.1", 0))
        )
        own = {"XDG_CACHE_HOME": str(folder / "cache"), "CUDA_VISIBLE_DEVICES": ""}
        stack.enter_context(s3_clients(**s3_environment(here), **own))
        service = stack.enter_context(served(Cloud(AWS), listener(cloud, METADATA, 80)))
        env = {
            **s3_environment(there), "AWS_EC2_METADATA_DISABLED": "false",
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "SMALL": "1", "RDZV_CONF": QUICK, "HOLDS": f"{holds}:{LOST},{DRAINED},{TAKEN}",
        }  # fmt: skip
        (laptop := folder / "laptop").mkdir()
        stack.enter_context(pytest.MonkeyPatch.context()).chdir(laptop)
        shutil.copy(faces_csv, "fer2013.csv")
        [profile] = [text for _, _, text in blocks(PAGE) if text.startswith("# spot.yaml\n")]
        Path("spot.yaml").write_text(profile)
        bucket = ("s3://bucket", f"s3://{new_bucket(here)}")
        found = Place(nodes, env, bucket, service, holds, laptop)
        assert main([*found.command("shards create"), "--jobs=1"]) == 0
        yield found


@pytest.fixture
def started(tmp_path: Path, place: Place) -> Iterator[Callable[..., Agent]]:
    """Starts a command on a machine, with an empty disk; afterwards nothing of it is left."""
    agents: list[Agent] = []

    def start(node: Node, command: list[str], env: dict[str, str]) -> Agent:
        disk = tmp_path / f"disk-{len(agents)}"
        disk.mkdir()
        own = {name: str(disk) for name in ("HOME", "TMPDIR", "SLURM_TMPDIR", "XDG_CACHE_HOME")}
        env = {**place.env, **own, **env}
        agents.append(Agent([], disk / "log", node.inside(command), **env))
        return agents[-1]

    yield start
    for agent in agents:
        agent.lose()


def options(place: Place, runs: Path | str, **more: object) -> list[str]:
    """What makes the page's run small; it keeps its name, its shards, and finds its devices."""
    kept = {"data.shards": f"{place.bucket[1]}/fer2013", "trainer.accelerator": "auto"}
    short = {"trainer.epochs": 4, "trainer.checkpoint_every_steps": 4}
    return tiny(Path(), runs, "fer2013", **{**kept, **short, **more})[2:]


def rendered(
    target: str, place: Place, capsys: pytest.CaptureFixture[str], **more: object
) -> list[Any]:
    """The documents that a command of the page prints."""
    runs = f"{place.bucket[1]}/runs"
    assert main([*place.command(f"render {target}"), *options(place, runs, **more)]) == 0
    return list(yaml.safe_load_all(capsys.readouterr().out))


def pods(documents: list[Any], nodes: list[Node], folder: Path) -> tuple[list[str], dict[str, str]]:
    """Put on machines what the kubelet does; returns the container's command and variables."""
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
        if "value" in item
    }  # fmt: skip


def published(run: str) -> int:
    """The step of a run's newest state in the bucket; -1 if there is none."""
    shelf = Bucket(run)
    held = shelf.get(HEAD)
    states = parse_head(held.data).states if held else ()
    state = shelf.get(states[0]) if states else None
    return parse_state(state.data).step if state else -1


def logs(agents: Sequence[Agent]) -> str:
    return "\n".join(agent.log for agent in agents)


def test_a_run_survives_the_machines_that_it_is_given(
    place: Place,
    started: Callable[..., Agent],
    zygote: Zygote,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A pod lost and replaced, the first one drained, a machine taken back: with equal weights."""
    nodes, run = place.nodes, place.run
    command, env = pods(rendered("kubernetes", place, capsys), nodes, tmp_path)

    def pod(node: Node, index: int) -> Agent:
        return started(node, command, {**env, "JOB_COMPLETION_INDEX": str(index)})

    first, second = pods_begun = [pod(nodes[0], 0), pod(nodes[1], 1)]
    place.reached(LOST, pods_begun)
    until(lambda: published(run) >= LOST - 1, pods_begun)
    second.lose()
    third = pod(nodes[2], 1)
    place.go_on(LOST)
    place.reached(DRAINED, [first, third])
    os.kill(first.pid, signal.SIGTERM)
    assert [first.wait(), third.wait()] == [143, 75], logs([first, third])
    step = published(run)
    assert DRAINED <= step <= DRAINED + 2
    assert f"{run}: published to step {step}" in first.log

    [task] = rendered("skypilot", place, capsys)
    env = {**task["envs"], "SKYPILOT_NODE_IPS": "10.77.0.2\n10.77.0.3"}

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
    assert [agent.wait() for agent in begun] == [143, 75], logs(begun)
    assert "note: AWS takes this machine back in " in begun[0].log
    assert f"{run}: its state at step {step} is here" in begun[0].log
    assert published(run) >= TAKEN
    place.go_on(TAKEN)
    place.cloud.only = "nobody"
    ended = both()
    assert [agent.wait() for agent in ended] == [0, 0], logs(ended)

    small = zygote.with_small_networks()
    train = ["train", "-c", "fer2013", *options(place, tmp_path)]
    alone = small.start(train, 2, env=environment(), preload=["s3fs"])
    assert alone.ended, alone.log
    assert main(place.command("runs copy")) == 0
    assert_same_training(tmp_path / "fer2013", place.folder / "runs" / "fer2013")
    capsys.readouterr()
    assert main(place.command("status")) == 0
    assert re.search(r"fer2013 +│ finished ", capsys.readouterr().out)
    scored = small.start(place.command("evaluate"), env=environment(), cwd=place.folder)
    assert scored.ended, scored.log


def test_a_mistake_ends_each_pod_with_the_status_that_fails_the_job(
    place: Place, started: Callable[..., Agent], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {"data.shards": f"{place.bucket[1]}/forgotten"}
    nodes = place.nodes[:2]
    command, env = pods(rendered("kubernetes", place, capsys, **wrong), nodes, tmp_path)
    both = [
        started(node, command, {**env, "JOB_COMPLETION_INDEX": str(index)})
        for index, node in enumerate(nodes)
    ]
    assert [agent.wait() for agent in both] == [2, 2], logs(both)
    for agent in both:
        last = agent.log.splitlines()[-1]
        assert last.startswith("pattlite: error: ") and "/forgotten" in last
