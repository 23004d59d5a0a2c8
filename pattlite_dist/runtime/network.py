"""Which address and interface the machines of a run reach each other by.

Gloo listens at the address of the machine's own name, which may be a loopback address (Debian's
`127.0.1.1`), belong to another network, or not exist. The address from which a machine reaches the
first one is known to be right, because that connection already exists.
"""

import contextlib
import ipaddress
import os
import re
import socket
import struct
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

GLOO, NCCL = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"
LOCAL = "127.0.0.1"
_SECONDS = 10.0  # a busy SLURM controller answers slowly
_ANYWHERE = "192.0.2.1"  # reserved for documentation: only the route to it is looked up
# The kernel's request for all addresses (RTM_GETADDR, as a dump), and what it answers with.
_DUMP = struct.pack("=IHHIIBBBBI", 24, 22, 0x301, 1, 0, 0, 0, 0, 0, 0)
_DONE, _ERROR, _ADDRESS = 3, 2, 20
_OTHER_END, _OWN_END = 1, 2  # attributes; without a peer, only the first may be there


class Address(NamedTuple):
    """An address of this machine."""

    interface: str
    ip: str


def node_name(env: Mapping[str, str] = os.environ) -> str:
    """The name of this machine; SLURM's, where it has one."""
    return env.get("SLURMD_NODENAME") or socket.gethostname()


def is_loopback(ip: str) -> bool:
    """Whether only this machine itself reaches an address."""
    return ipaddress.ip_address(ip).is_loopback


def interface_of(ip: str, table: Iterable[Address]) -> str | None:
    """The interface with an address; for any loopback address, the loopback interface."""
    names = {address.ip: address.interface for address in table}
    return names.get(ip, names.get(LOCAL) if is_loopback(ip) else None)


def reachable(own: str, others: Iterable[str], route: Callable[[str], str | None]) -> str:
    """The address of this machine that the other machines can use.

    On the first machine, its own name may mean a loopback address. The others' addresses are then
    looked at: the route to one of them leads out of the right interface.

    Args:
        own: address from which this machine reaches the first one.
        others: the same of the other ranks; read only if needed.
        route: from which address this machine reaches another.
    """
    if is_loopback(own):
        for other in others:
            if not is_loopback(other):
                return route(other) or own
    return own


def only_address(table: Sequence[Address]) -> str | None:
    """This machine's address, if just one of its interfaces leads out of it."""
    out = [address for address in table if not is_loopback(address.ip)]
    out = [address for address in out if not ipaddress.ip_address(address.ip).is_link_local]
    return out[0].ip if len({address.interface for address in out}) == 1 else None


def parse_addresses(data: bytes) -> tuple[list[tuple[int, str]], bool]:
    """Interface numbers and addresses in a part of the kernel's answer; whether it is the last."""
    found: list[tuple[int, str]] = []
    at = 0
    while at + 16 <= len(data):
        size, kind = struct.unpack_from("=IH", data, at)
        if kind in (_DONE, _ERROR) or size < 16:
            return found, True
        if kind == _ADDRESS and at + 24 <= len(data):
            (index,) = struct.unpack_from("=I", data, at + 20)
            ends = dict(_attributes(data, at + 24, min(at + size, len(data))))
            packed = ends.get(_OWN_END, ends.get(_OTHER_END, b""))
            if len(packed) in (4, 16):
                found.append((index, str(ipaddress.ip_address(packed))))
        at += size + -size % 4
    return found, False


def _attributes(data: bytes, at: int, end: int) -> Iterator[tuple[int, bytes]]:
    while at + 4 <= end:
        size, kind = struct.unpack_from("=HH", data, at)
        if size < 4:
            return
        yield kind, data[at + 4 : min(at + size, end)]
        at += size + -size % 4


def addresses() -> list[Address]:
    """All addresses of this machine, in the kernel's order; none if it is not Linux."""
    found: list[tuple[int, str]] = []
    done = False
    with contextlib.suppress(OSError, AttributeError):
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as link:
            link.settimeout(_SECONDS)
            link.sendall(_DUMP)
            while not done:
                part, done = parse_addresses(link.recv(1 << 16))
                found += part
        return [Address(socket.if_indextoname(index), ip) for index, ip in found]
    return []


def source_of(host: str) -> str | None:
    """The address of this machine from which it reaches another; None if it does not.

    Nothing is sent: connecting a datagram socket only looks up the route.
    """
    try:
        found = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        return None
    for family, kind, protocol, _, where in found:
        with contextlib.suppress(OSError), socket.socket(family, kind, protocol) as probe:
            probe.connect(where)
            return str(probe.getsockname()[0]).partition("%")[0]
    return None


def agent_address(host: str) -> str | None:
    """The address that torchrun's agent on this machine should give to the others.

    Args:
        host: where the agents meet; it may be this machine.
    """
    own = source_of(host)
    if own is None or not is_loopback(own) or is_local(host):
        return own
    # The name of this machine, which means a loopback address here and hopefully not elsewhere.
    return source_of(_ANYWHERE) or only_address(addresses())


def is_here(host: str) -> bool:
    """Whether a name or an address is this machine's."""
    try:
        found = {str(item[4][0]).partition("%")[0] for item in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return False
    own = {address.ip for address in addresses()}
    return any(ip in own or is_loopback(ip) for ip in found)


def name_leads_here() -> bool:
    """Whether this machine's own name means an address that others can use."""
    own = source_of(socket.gethostname())
    return own is not None and not is_loopback(own)


def is_local(host: str) -> bool:
    """Whether this is `localhost` or a loopback address, and not a name that may mean one here."""
    try:
        return host == "localhost" or is_loopback(host)
    except ValueError:
        return False


def parse_node(text: str) -> str | None:
    """A node's address in the output of `scontrol show node`."""
    found = re.search(r"\bNodeAddr=(\S+)", text)
    return found[1] if found and found[1] != "(null)" else None


def first_node(names: str) -> str:
    """The first of SLURM's list of nodes, such as `rack1n[02-04,7],login`."""
    inside = re.sub(r"\[([^],-]+)[^]]*\]", r"\1", names)
    return inside.partition(",")[0]


def slurm_main(nodes: int, env: Mapping[str, str] = os.environ) -> str:
    """The address of a step's first node, where rank 0 is.

    Args:
        nodes: number of the step's nodes.
        env: of a task.
    """
    if nodes == 1:
        return LOCAL
    return slurm_address(first_node(env.get("SLURM_STEP_NODELIST") or env["SLURM_NODELIST"]))


def slurm_address(node: str) -> str:
    """The address by which SLURM itself reaches a node; its name, if SLURM does not answer.

    Names of nodes need not resolve on the nodes.
    """
    try:
        done = subprocess.run(
            ["scontrol", "show", "node", node], stdin=subprocess.DEVNULL, capture_output=True,
            text=True, errors="replace", timeout=_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return node
    return parse_node(done.stdout) or node


def use_interface(name: str, nodes: int) -> None:
    """Make Gloo, and between nodes NCCL, use an interface, unless the user has chosen one."""
    os.environ.setdefault(GLOO, name)
    if nodes > 1 and not _nccl_configured():
        os.environ.setdefault(NCCL, f"={name}")  # exactly this one; NCCL takes it for a prefix


def _nccl_configured() -> bool:
    """Whether one of NCCL's files chooses an interface; a variable would overrule it."""
    own = os.environ.get("NCCL_CONF_FILE") or "~/.nccl.conf"
    for path in (Path(own), Path("/etc/nccl.conf")):
        with contextlib.suppress(OSError, RuntimeError):
            if NCCL in path.expanduser().read_text(errors="replace"):
                return True
    return False
