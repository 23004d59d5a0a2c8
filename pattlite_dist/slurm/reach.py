"""Whether two nodes reach each other by the addresses that a job would use.

`python -m pattlite_dist.slurm.reach` is what runs on both: the second node connects to the first
as ranks connect to rank 0, and the first connects back to the address that the second would give.
"""

import contextlib
import os
import socket
import sys
import time
from pathlib import Path

from pattlite_dist.runtime import network
from pattlite_dist.runtime.network import node_name
from pattlite_dist.slurm import node, script
from pattlite_dist.slurm.admission import essence
from pattlite_dist.slurm.checks import Report
from pattlite_dist.slurm.profile import Profile

SECONDS = 15.0  # for the slower node to start Python, and for a connection that nobody answers
_BEGIN, _SAYS = "pattlite-reach ", "pattlite-cannot "
_TOPIC = "whether the nodes reach each other"


def look(profile: Profile, immediate: int, code: Path | None = None) -> Report:
    """Check it with two nodes, if the job has several and two are free.

    Args:
        profile: of the cluster.
        immediate: seconds to wait for free nodes.
        code: folder of the package that the job will use, if not the installed one.
    """
    if profile.node_range[-1] < 2:
        return Report()
    python = f"{script.interpreter(profile)} -m {__name__}"
    lines = [f'echo "{_BEGIN}"', *script.setup_lines(profile, code), python]
    came = node.run(node.step(profile, immediate, 2, lines), immediate)
    if isinstance(came, str):
        return Report(notes=[f"{_TOPIC}: not checked, {came}"])
    return judge(*came, immediate)


def judge(status: int, stdout: str, stderr: str, waited: int) -> Report:
    """What an answer means.

    Args:
        status: of srun.
        stdout: of both nodes.
        stderr: of srun and both nodes.
        waited: seconds that free nodes were waited for.
    """
    lines = [line.strip() for line in stdout.splitlines()]
    problems = [line.removeprefix(_SAYS) for line in lines if line.startswith(_SAYS)]
    if problems or not status:
        return Report(list(dict.fromkeys(problems)))
    said = essence(stderr) or f"exit status {status}"
    if _BEGIN.strip() not in lines and ("busy" in said or "mmediate execution" in said):
        said = f"no two nodes were free in {waited} s"
    return Report(notes=[f"{_TOPIC}: not checked, {said}"])


def meet(rank: int, main: str, port: int, seconds: float = SECONDS) -> str | None:
    """One node's part; returns what is wrong, in one line.

    Args:
        rank: 0 on the first node, where the other connects to, and 1 on the second.
        main: address of the first node.
        port: at which it listens.
        seconds: to wait for the other.
    """
    return _first(main, port, seconds) if rank == 0 else _second(main, port, seconds)


def _first(main: str, port: int, seconds: float) -> str | None:
    with socket.create_server(("", port)) as server:
        server.settimeout(seconds)
        try:
            call, _ = server.accept()
        except TimeoutError:
            return None  # the other node says so, and by which address it tried
        with call:
            call.settimeout(seconds)
            host, other = call.makefile().readline().split()
            try:
                with socket.create_connection((host, int(other)), seconds):
                    return None
            except OSError as error:
                with contextlib.suppress(OSError):
                    call.sendall(b"no\n")
                return (
                    f"{node_name()} cannot connect to {host}, the address of the second node: "
                    f"{error.strerror or error}; {_ADVICE}"
                )


def _second(main: str, port: int, seconds: float) -> str | None:
    end, said = time.monotonic() + seconds, "no answer"
    while time.monotonic() < end:
        try:
            call = socket.create_connection((main, port), max(end - time.monotonic(), 0.1))
        except OSError as error:  # refused until the first node listens
            said = error.strerror or str(error)
            time.sleep(0.1)
            continue
        with call, socket.create_server((str(call.getsockname()[0]), 0)) as server:
            server.settimeout(seconds)
            call.sendall(f"{call.getsockname()[0]} {server.getsockname()[1]}\n".encode())
            with contextlib.suppress(OSError):  # the first node says it
                server.accept()[0].close()
        return None
    return (
        f"{node_name()} cannot connect to {main}, the address of the first node: {said}; {_ADVICE}"
    )


_ADVICE = (
    "a job could not train on both; open the ports between nodes, or set MASTER_ADDR and "
    "GLOO_SOCKET_IFNAME in profile.environment or setup"
)


def main() -> int:
    """On a node: say what is wrong, if anything."""
    rank, port = int(os.environ["SLURM_PROCID"]), 15000 + int(os.environ["SLURM_JOB_ID"][-4:])
    problem = meet(rank, os.environ.get("MASTER_ADDR") or network.slurm_main(2), port)
    if problem is not None:
        print(f"{_SAYS}{problem}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
