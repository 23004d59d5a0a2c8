import os
import signal
import socket
import time

import pytest

from pattlite_dist.errors import UserError
from pattlite_dist.runtime import launch
from pattlite_dist.runtime.launch import Place, agent_arguments, place_of, wait_for_first

JOB = {"PATTLITE_NODES": "3", "PATTLITE_FIRST": "a-0.a", "JOB_COMPLETION_INDEX": "2"}
KUBEFLOW = {"PET_NNODES": "2", "PET_NODE_RANK": "1", "PET_MASTER_ADDR": "a-node-0-0.a"}
SKY = {"SKYPILOT_NODE_RANK": "1", "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2\n"}


@pytest.mark.parametrize(
    ("env", "place"),
    [
        ({}, Place()),
        ({"JOB_COMPLETION_INDEX": "0"}, Place()),  # a Job of one pod, which meets nobody
        (JOB, Place(3, 2, "a-0.a")),
        ({**JOB, "JOB_COMPLETION_INDEX": "0"}, Place(3, 0, "a-0.a")),
        ({**JOB, **SKY}, Place(3, 2, "a-0.a")),  # SkyPilot may itself be on Kubernetes
        (KUBEFLOW, Place(2, 1, "a-node-0-0.a")),
        ({**KUBEFLOW, "PET_NNODES": "1", "PET_NODE_RANK": "0"}, Place()),
        (SKY, Place(2, 1, "10.0.0.1")),
        ({"SKYPILOT_NODE_RANK": "0", "SKYPILOT_NODE_IPS": "10.0.0.1"}, Place()),
    ],
)
def test_a_machine_finds_its_place(env: dict[str, str], place: Place) -> None:
    assert place_of(env) == place


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({**JOB, "PATTLITE_NODES": "0"}, "PATTLITE_NODES='0' is not a number from 1"),
        ({"PATTLITE_NODES": "2"}, "JOB_COMPLETION_INDEX='' is not a number from 0"),
        ({**JOB, "PATTLITE_FIRST": ""}, "3 machines require PATTLITE_FIRST, where they meet"),
        ({**JOB, "JOB_COMPLETION_INDEX": "3"}, "machine 3 of 3 is none"),
        ({**KUBEFLOW, "PET_NNODES": "1:2"}, "PET_NNODES='1:2' is not a number from 1"),
        ({**KUBEFLOW, "PET_MASTER_ADDR": ""}, "2 machines require PET_MASTER_ADDR"),
        ({**SKY, "SKYPILOT_NODE_RANK": "-1"}, "SKYPILOT_NODE_RANK='-1' is not a number"),
        ({**SKY, "SKYPILOT_NODE_RANK": "2"}, "machine 2 of 2 is none"),
    ],
)
def test_a_wrong_variable_is_named(env: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        place_of(env)


def test_the_agent_is_told_where_to_meet_and_who_waits_there() -> None:
    end = ["--nproc-per-node=4", "--max-restarts=100", "-m", "pattlite_dist", "train", "-c", "x"]
    command = ["train", "-c", "x"]
    assert agent_arguments(Place(), 4, command) == ["--standalone", *end]
    for place, endpoint, host in (
        (Place(2, 0, "a-0.a"), "a-0.a:29400", 1),
        (Place(2, 1, "a-0.a"), "a-0.a:29400", 0),
        (Place(2, 1, "fd00::1"), "[fd00::1]:29400", 0),
    ):
        assert agent_arguments(place, 4, command) == [
            "--nnodes=2", "--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}",
            "--rdzv-id=pattlite", f"--rdzv-conf=is_host={host}", *end,
        ]  # fmt: skip


def test_a_machine_waits_until_the_first_one_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_EVERY", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(launch, "PORT", server.getsockname()[1])
        assert wait_for_first(Place(2, 1, "127.0.0.1"))
    assert not wait_for_first(Place(2, 1, "127.0.0.1"), patience=0.05)
    assert wait_for_first(Place(2, 0, "127.0.0.1"))  # the first one only needs its name
    assert not wait_for_first(Place(2, 0, "a..b"), patience=0.05)


@pytest.mark.parametrize(
    ("command", "env", "message"),
    [
        ([], {}, "usage: "),
        (["train"], {"NPROC": "two"}, "pattlite: error: NPROC='two' is not a number from 1"),
        (["train"], {"PATTLITE_NODES": "x"}, "pattlite: error: PATTLITE_NODES='x' is not a"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    command: list[str],
    env: dict[str, str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in {"NPROC": "1", **env}.items():
        monkeypatch.setenv(name, value)
    assert launch.main(command) == 2
    told = capsys.readouterr().err
    assert told.startswith(message) and told.count("\n") == 1


def test_a_machine_that_still_waits_for_others_ends_at_sigterm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def drained(place: Place) -> bool:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)  # the signal's handler ends it
        return True

    monkeypatch.setattr(launch, "wait_for_first", drained)
    for name, value in {**JOB, "NPROC": "1"}.items():
        monkeypatch.setenv(name, value)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as end:
            launch.main(["train"])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert end.value.code == 143
