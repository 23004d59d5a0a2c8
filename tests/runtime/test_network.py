import ipaddress
import os
import socket
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pattlite_dist.runtime import network
from pattlite_dist.runtime.network import Address

TABLE = [
    Address("lo", "127.0.0.1"), Address("lo", "::1"), Address("ib0", "10.1.0.7"),
    Address("eth0", "192.168.0.7"), Address("eth0", "192.168.5.7"), Address("eth0", "fe80::7"),
]  # fmt: skip
ips = st.ip_addresses().map(str)
outside = ips.filter(lambda ip: not network.is_loopback(ip))
loopback = st.integers(1, 2**24 - 2).map(lambda n: str(ipaddress.ip_address(127 * 2**24 + n)))


@pytest.mark.parametrize(
    ("ip", "name"),
    [
        ("10.1.0.7", "ib0"), ("192.168.5.7", "eth0"), ("fe80::7", "eth0"), ("127.0.0.1", "lo"),
        ("127.0.1.1", "lo"), ("::1", "lo"), ("10.1.0.8", None),
    ],
)  # fmt: skip
def test_the_interface_is_the_one_that_has_the_address(ip: str, name: str | None) -> None:
    assert network.interface_of(ip, TABLE) == name
    assert network.interface_of(ip, []) is None


@given(outside, st.lists(ips))
def test_an_address_that_leads_out_of_the_machine_is_used_and_nobody_is_asked(
    own: str, others: list[str]
) -> None:
    def refuse(ip: str) -> str:
        raise AssertionError(ip)

    assert network.reachable(own, others, refuse) == own


@given(loopback, st.lists(loopback), outside, st.lists(ips), outside)
def test_where_the_own_name_is_a_loopback_address_the_way_to_another_machine_decides(
    own: str, local: list[str], other: str, more: list[str], way: str
) -> None:
    asked = []

    def route(ip: str) -> str:
        asked.append(ip)
        return way

    assert network.reachable(own, [*local, other, *more], route) == way
    assert asked == [other]
    assert network.reachable(own, [other], lambda _: None) == own  # no way: better than nothing


@given(loopback, st.lists(loopback))
def test_machines_that_are_all_this_one_use_the_loopback_interface(
    own: str, others: list[str]
) -> None:
    ip = network.reachable(own, others, lambda _: "10.1.0.7")
    assert network.interface_of(ip, TABLE) == "lo"


def test_an_address_is_only_guessed_where_one_interface_leads_out() -> None:
    assert network.only_address(TABLE) is None
    assert network.only_address(TABLE[:3]) == "10.1.0.7"
    assert network.only_address([*TABLE[:2], *TABLE[3:]]) == "192.168.0.7"
    assert network.only_address(TABLE[:2]) is None


def message(kind: int, index: int, attributes: list[tuple[int, bytes]]) -> bytes:
    body = struct.pack("=BBBBI", 2, 24, 0, 0, index)
    for number, value in attributes:
        part = struct.pack("=HH", 4 + len(value), number) + value
        body += part + b"\0" * (-len(part) % 4)
    return struct.pack("=IHHII", 16 + len(body), kind, 2, 1, 0) + body


def test_the_kernels_answer_is_read() -> None:
    mine, peer, six = (
        ipaddress.ip_address(ip).packed for ip in ("10.0.0.1", "10.0.0.2", "fe80::7")
    )
    data = message(20, 3, [(1, peer), (3, b"ppp0\0"), (2, mine)]) + message(20, 4, [(1, six)])
    assert network.parse_addresses(data) == ([(3, "10.0.0.1"), (4, "fe80::7")], False)
    assert network.parse_addresses(data + message(3, 0, []) + data) == (
        [(3, "10.0.0.1"), (4, "fe80::7")], True,
    )  # fmt: skip


@given(st.binary(max_size=200), st.integers(0, 80))
def test_whatever_the_kernel_answers_is_read_without_an_error(noise: bytes, cut: int) -> None:
    network.parse_addresses(noise)
    network.parse_addresses((message(20, 3, [(2, b"\x0a\0\0\1")]) + noise)[:cut])


def test_this_machines_addresses_are_found() -> None:
    told = subprocess.run(["ip", "-o", "addr"], capture_output=True, text=True, check=False).stdout
    found = network.addresses()
    assert Address("lo", "127.0.0.1") in found
    lines = [line.split() for line in told.splitlines()]
    assert {(name, ip) for name, ip in found} == {
        (words[1], words[3].partition("/")[0]) for words in lines
    } or not lines


def test_a_way_is_looked_up_by_address_and_by_name() -> None:
    assert network.source_of("127.0.0.1") == "127.0.0.1"
    assert network.source_of("localhost") in ("127.0.0.1", "::1")
    assert network.source_of("no-such-machine.invalid") is None
    assert network.source_of("a..b" + "x" * 70) is None


@pytest.mark.parametrize(
    ("host", "own", "anywhere", "expected"),
    [
        ("10.0.0.1", "10.0.0.2", None, "10.0.0.2"),
        ("first", "10.0.0.2", None, "10.0.0.2"),
        ("127.0.0.1", "127.0.0.1", "10.0.0.2", "127.0.0.1"),
        ("localhost", "127.0.0.1", "10.0.0.2", "127.0.0.1"),
        ("first", "127.0.0.1", "10.0.0.2", "10.0.0.2"),  # the name of this machine on Debian
        ("first", "127.0.0.1", None, "10.9.9.9"),
        ("first", None, "10.0.0.2", None),
    ],
)
def test_an_agent_gives_the_address_that_leads_to_where_they_meet(
    host: str, own: str | None, anywhere: str | None, expected: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    ways = {host: own, network._ANYWHERE: anywhere}
    monkeypatch.setattr(network, "source_of", ways.__getitem__)
    monkeypatch.setattr(network, "addresses", lambda: [*TABLE[:2], Address("eth0", "10.9.9.9")])
    assert network.agent_address(host) == expected


def test_a_machine_knows_its_own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert network.is_here("127.0.0.1") and network.is_here("localhost")
    assert not network.is_here("192.0.2.1") and not network.is_here("no-such-machine.invalid")
    monkeypatch.setattr(socket, "gethostname", lambda: "no-such-machine.invalid")
    assert not network.name_leads_here()
    monkeypatch.setattr(socket, "gethostname", lambda: "127.0.1.1")
    assert not network.name_leads_here()


@pytest.mark.parametrize(
    ("names", "first"),
    [
        ("n1", "n1"), ("n1,n2", "n1"), ("n[1-2]", "n1"), ("gpu-[003,7-9]x,b", "gpu-003x"),
        ("rack[2-3]n[01-04]", "rack2n01"), ("a-b-1,c[1-2]", "a-b-1"), ("login.b,n[1]", "login.b"),
    ],
)  # fmt: skip
def test_the_first_node_of_slurms_list_is_found(names: str, first: str) -> None:
    assert network.first_node(names) == first


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that tells the address of n1 only."""
    path = tmp_path / "scontrol"
    path.write_text(
        '#!/bin/sh\n[ "$*" = "show node n1" ] || exit 1\n'
        "echo 'NodeName=n1 Arch=x86_64 CoresPerSocket=1'\n"
        "echo '   NodeAddr=10.0.0.1 NodeHostName=n1 Version=24.11'\n"
    )
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    return path


def test_slurm_knows_a_nodes_address(scontrol: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert network.slurm_address("n1") == "10.0.0.1"
    assert network.slurm_address("n2") == "n2"
    step = {"SLURM_NODELIST": "n[2-3]", "SLURM_STEP_NODELIST": "n[1-2]"}
    assert network.slurm_main(2, step) == "10.0.0.1"
    assert network.slurm_main(2, {"SLURM_NODELIST": "n1"}) == "10.0.0.1"
    assert network.slurm_main(1, {}) == "127.0.0.1"
    monkeypatch.setenv("PATH", "/nowhere")
    assert network.slurm_address("n1") == "n1"


def test_a_node_without_an_address_is_its_name() -> None:
    assert network.parse_node("NodeName=n1\n   NodeAddr=n1.cluster Version=1") == "n1.cluster"
    assert network.parse_node("NodeName=n1 NodeAddr=(null)") is None
    assert network.parse_node("slurm_load_node error: Unable to contact controller") is None


@pytest.fixture
def unset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No variable names an interface, and NCCL has an empty file."""
    for name in (network.GLOO, network.NCCL):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    file = tmp_path / "nccl.conf"
    file.write_text("")
    monkeypatch.setenv("NCCL_CONF_FILE", str(file))
    return file


def test_the_interface_is_set_for_both_only_between_machines(unset: Path) -> None:
    network.use_interface("lo", 1)
    assert os.environ[network.GLOO] == "lo" and network.NCCL not in os.environ
    del os.environ[network.GLOO]
    network.use_interface("eth0", 2)
    assert os.environ[network.GLOO] == "eth0" and os.environ[network.NCCL] == "=eth0"


def test_what_the_user_has_set_stays(unset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(network.GLOO, "ib0")
    unset.write_text(f"{network.NCCL}=ib0\n")
    network.use_interface("eth0", 2)
    assert os.environ[network.GLOO] == "ib0" and network.NCCL not in os.environ
    monkeypatch.setenv(network.NCCL, "ib1")
    network.use_interface("eth0", 2)
    assert os.environ[network.NCCL] == "ib1"
