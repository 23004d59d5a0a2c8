"""Machines whose names mean the wrong address, or none, train together all the same."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pattlite_dist.tracking import history
from tests.conftest import environment, tiny
from tests.nodes import Node, machines
from tests.test_torchrun import LIMIT, SCRIPT, variables

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces, which needs root"),
]
LOCAL = "127.0.0.1 localhost\n"
# As Debian's installer writes it; each knows the other by its real address.
DEBIAN = [
    LOCAL + "127.0.1.1 gpu-a\n10.77.0.2 gpu-b\n",
    LOCAL + "127.0.1.1 gpu-b\n10.77.0.1 gpu-a\n",
]
NAMELESS = [LOCAL, LOCAL]


@contextlib.contextmanager
def ended(processes: list["subprocess.Popen[bytes]"]) -> Iterator[None]:
    """Whatever happens, no process of these sessions is left."""
    try:
        yield
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)  # an agent ends its workers
                process.wait()


def train(nodes: list[Node], where: str, shards: Path, folder: Path, python: str) -> str:
    """Train on all of them by the script; returns what they said."""
    options = tiny(shards, folder, trainer__epochs=1, trainer__global_batch=26)
    env = variables(NPROC="1", NNODES=str(len(nodes)), RDZV=where, PYTHON=python)
    files = [folder / f"{node.name}.log" for node in nodes]
    processes = []
    for node, file in zip(nodes, files, strict=True):
        with file.open("wb") as log:
            processes.append(node.start([str(SCRIPT), *options], log, env=env))
    with ended(processes):
        statuses = [process.wait(LIMIT) for process in processes]
    said = "".join(file.read_text() for file in files)
    assert not any(statuses), said
    return said


@pytest.mark.parametrize(
    ("hosts", "where"),
    [
        pytest.param(DEBIAN, "gpu-a:29400", id="own name is a loopback address"),
        pytest.param(NAMELESS, "10.77.0.1:29400", id="no name resolves"),
    ],
)
def test_two_machines_train_by_the_address_that_leads_to_the_first(
    hosts: list[str], where: str, face_shards: Path, tmp_path: Path, forking_python: str
) -> None:
    with machines(tmp_path, hosts) as nodes:
        said = train(nodes, where, face_shards, tmp_path, forking_python)
    assert "2 rank(s)" in said
    events = history.read(tmp_path / "tiny")
    assert events[-1]["event"] == "finished"
    assert sorted(history.last_start(events)["nodes"]) == sorted(node.name for node in nodes)


def test_one_machine_whose_own_name_does_not_resolve_trains_with_two_processes(
    face_shards: Path, tmp_path: Path, forking_python: str
) -> None:
    options = tiny(face_shards, tmp_path, trainer__epochs=1)
    with machines(tmp_path, [LOCAL]) as (node,):
        node.run("ip", "link", "del", "admin")
        node.run("ip", "link", "del", "fabric")
        with (tmp_path / "log").open("wb") as log:
            env = variables(NPROC="2", PYTHON=forking_python)
            process = node.start([str(SCRIPT), *options], log, env=env)
        with ended([process]):
            status = process.wait(LIMIT)
    assert status == 0, (tmp_path / "log").read_text()


def test_ranks_of_a_job_find_each_other(tmp_path: Path) -> None:
    """By the address that SLURM knows, or by the name, which on its own node leads nowhere."""
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\n[ "$*" = "show node gpu-a" ] && echo NodeAddr=10.77.0.1\n')
    scontrol.chmod(0o755)
    ways = [f"PATH={tmp_path}", "PATH=/nowhere", "PATH=/nowhere,GLOO_SOCKET_IFNAME=admin"]
    env = environment()
    for name in ("MASTER_ADDR", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        env.pop(name, None)
    with machines(tmp_path, DEBIAN) as nodes:
        logs, processes = [], []
        for rank, node in enumerate(nodes):
            logs.append(tmp_path / f"{rank}.log")
            with logs[-1].open("wb") as log:
                command = [sys.executable, "-m", "tests.joining", str(rank), *ways]
                processes.append(node.start(command, log, env=env))
        with ended(processes):
            assert [process.wait(LIMIT) for process in processes] == [0, 0]
    for rank, log in enumerate(logs):
        lines = [line for line in log.read_text().splitlines() if "fabric" in line]
        assert lines[:2] == ["together fabric =fabric"] * 2, log.read_text()
        assert lines[2].startswith(f"rank {rank} cannot connect to the other 1 from 10.77.0.")
        assert "on admin" in lines[2] and "set GLOO_SOCKET_IFNAME to the interface" in lines[2]
        assert lines[2].endswith("admin =fabric")
