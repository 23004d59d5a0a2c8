"""Machines with a network of their own between them: names, addresses and interfaces at will.

Each is a process that holds a network, a host name and a view of `/etc/hosts`; needs root.
"""

import contextlib
import ctypes
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

READY = "ready"


class Node:
    """A machine of these tests."""

    def __init__(self, name: str, hosts: str, folder: Path) -> None:
        self.name = name
        file = folder / f"{name}.hosts"
        file.write_text(hosts)
        hold = f"mount --bind {file} /etc/hosts && hostname {name} && echo {READY} && exec cat"
        self.process = subprocess.Popen(
            ["unshare", "--net", "--uts", "--mount", "sh", "-c", hold],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        if self.process.stdout.readline().strip() != READY:
            self.close()
            raise PermissionError(f"no network namespace for {name}")

    def inside(self, command: Sequence[str]) -> list[str]:
        """The command, as run on this machine; it takes the place of what starts it."""
        return ["nsenter", f"--target={self.process.pid}", "--net", "--uts", "--mount", *command]

    def run(self, *command: str) -> None:
        subprocess.run(self.inside(command), check=True)

    def start(
        self, command: Sequence[str], log: IO[Any], env: Mapping[str, str]
    ) -> "subprocess.Popen[bytes]":
        """Start a process on this machine, as the leader of a session."""
        return subprocess.Popen(
            self.inside(command), stdout=log, stderr=subprocess.STDOUT, env=env,
            start_new_session=True,
        )  # fmt: skip

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


@contextlib.contextmanager
def machines(folder: Path, hosts: Sequence[str]) -> Iterator[list[Node]]:
    """Up to six machines, `gpu-a`, `gpu-b` …, on one network as `10.77.0.1`, `10.77.0.2` …

    Each has a second interface, listed first, to a network that nobody else is on.

    Args:
        folder: for their files.
        hosts: what is in `/etc/hosts` of each.
    """
    with contextlib.ExitStack() as stack:
        nodes = []
        for number, text in enumerate(hosts):
            nodes.append(Node(f"gpu-{'abcdef'[number]}", text, folder))
            stack.callback(nodes[-1].close)
        switch, *_ = nodes  # the bridge is in the first one; it ends with it
        switch.run("ip", "link", "add", "fabric", "type", "bridge")
        for number, node in enumerate(nodes, 1):
            node.run("ip", "link", "set", "lo", "up")
            node.run("ip", "link", "add", "admin", "type", "bridge")
            node.run("ip", "addr", "add", f"172.31.{number}.1/24", "dev", "admin")
            node.run("ip", "link", "set", "admin", "up")
            if node is not switch:
                switch.run("ip", "link", "add", f"port{number}", "type", "veth", "peer", "name",
                           "fabric", "netns", str(node.process.pid))  # fmt: skip
                switch.run("ip", "link", "set", f"port{number}", "master", "fabric", "up")
            node.run("ip", "addr", "add", f"10.77.0.{number}/24", "dev", "fabric")
            node.run("ip", "link", "set", "fabric", "up")
        yield nodes


def listener(node: Node, host: str, port: int) -> socket.socket:
    """A socket of this process that listens on a machine's network.

    Args:
        node: machine.
        host: one of its addresses.
        port: of it; 0 for any.
    """
    made: list[socket.socket] = []

    def make() -> None:  # only this thread goes there
        with Path(f"/proc/{node.process.pid}/ns/net").open() as network:
            if ctypes.CDLL(None, use_errno=True).setns(network.fileno(), 0):
                raise OSError(ctypes.get_errno(), "setns")
        made.append(socket.create_server((host, port)))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return made[0]
