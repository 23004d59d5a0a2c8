import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from pattlite_dist.slurm import reach
from tests.slurm.conftest import Cluster
from tests.slurm.test_node import profile

BUSY = "srun: error: Unable to allocate resources: Requested nodes are busy\n"


def test_a_job_of_one_node_is_not_asked_about() -> None:
    report = reach.look(profile(nodes=1), 1)
    assert report.problems == report.notes == []


@pytest.mark.parametrize(
    ("status", "stdout", "stderr", "problems", "note"),
    [
        (0, "pattlite-reach\npattlite-reach\n", "", [], ""),
        (0, "pattlite-reach\npattlite-cannot n2 cannot; fix\n", "", ["n2 cannot; fix"], ""),
        (1, "", BUSY, [], "not checked, no two nodes were free in 5 s"),
        (1, "pattlite-reach\n", "srun: error: n1: task 0: Killed\n", [], "not checked, "),
    ],
)
def test_an_answer_is_judged(
    status: int, stdout: str, stderr: str, problems: list[str], note: str
) -> None:
    report = reach.judge(status, stdout, stderr, 5)
    assert report.problems == problems
    assert len(report.notes) == bool(note) and all(note in line for line in report.notes)


@contextlib.contextmanager
def port() -> Iterator[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
    yield number


def test_two_nodes_that_reach_each_other_both_say_nothing() -> None:
    said: list[str | None] = []
    with port() as number:
        first = threading.Thread(target=lambda: said.append(reach.meet(0, "127.0.0.1", number)))
        first.start()
        said.append(reach.meet(1, "127.0.0.1", number))
        first.join()
    assert said == [None, None]


def test_a_first_node_that_cannot_be_reached_is_told_with_its_address() -> None:
    with port() as number:
        said = reach.meet(1, "127.0.0.1", number, 0.3)
    assert said is not None
    assert "cannot connect to 127.0.0.1, the address of the first node: Connection refused" in said
    assert "GLOO_SOCKET_IFNAME" in said and "\n" not in said


def test_a_second_node_that_cannot_be_called_back_is_told_with_its_address() -> None:
    said: list[str | None] = []
    with port() as number, port() as nobody:
        first = threading.Thread(target=lambda: said.append(reach.meet(0, "127.0.0.1", number)))
        first.start()
        call = None
        while call is None:
            with contextlib.suppress(ConnectionRefusedError):
                call = socket.create_connection(("127.0.0.1", number))
        with call:
            call.sendall(f"127.0.0.1 {nobody}\n".encode())
            first.join()
            assert call.recv(9) == b"no\n"
    assert said[0] is not None and "127.0.0.1, the address of the second node" in said[0]


@pytest.mark.slurm
def test_the_nodes_of_a_cluster_reach_each_other(cluster: Cluster) -> None:
    report = reach.look(profile(nodes=2), 5)
    assert report.problems == report.notes == []
