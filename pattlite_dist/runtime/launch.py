"""The part of one machine in a run that Kubernetes, Kubeflow or SkyPilot starts on several.

`python -m pattlite_dist.runtime.launch VERB …` is what the manifests of `pattlite render` run. It
does what `launch/torchrun.sh` does where a user says how many machines there are and where they
meet: here, the variables that those systems set in each container say so.
"""

import os
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from pattlite_dist.errors import UserError
from pattlite_dist.runtime import elastic

PORT = 29400  # torchrun's own
# Set by our manifests: the machines, where they meet, the processes of one, and how many seconds
# after SIGTERM all are killed.
NODES, FIRST, PROCESSES = "PATTLITE_NODES", "PATTLITE_FIRST", "NPROC"
AGAIN = 75  # the exit status where only another start helps (EX_TEMPFAIL of sysexits.h)
_RESTARTS = 100  # as launch/torchrun.sh
_PATIENCE, _EVERY = 600.0, 2.0  # seconds; the first is torchrun's own, for machines to come


@dataclass(frozen=True)
class Place:
    """This machine among those of the run.

    Attributes:
        count: of the machines.
        rank: of this one.
        first: name or address of the first one, where all meet; empty if there is one only.
    """

    count: int = 1
    rank: int = 0
    first: str = ""


def place_of(env: Mapping[str, str]) -> Place:
    """Read the variables of an indexed Job, Kubeflow's of torchrun, SkyPilot's, or none.

    Raises:
        UserError: one of them is missing, or not what it should be.
    """
    if NODES in env:
        count, rank = _number(env, NODES, 1), _number(env, "JOB_COMPLETION_INDEX", 0)
        first = env.get(FIRST, "")
        name = FIRST
    elif "PET_NODE_RANK" in env:
        count, rank = _number(env, "PET_NNODES", 1), _number(env, "PET_NODE_RANK", 0)
        first = env.get("PET_MASTER_ADDR", "")
        name = "PET_MASTER_ADDR"
    elif "SKYPILOT_NODE_RANK" in env:
        # SkyPilot may be older than SKYPILOT_NUM_NODES.
        ips = env.get("SKYPILOT_NODE_IPS", "").split()
        count, rank = max(len(ips), 1), _number(env, "SKYPILOT_NODE_RANK", 0)
        first = next(iter(ips), "")
        name = "SKYPILOT_NODE_IPS"
    else:
        return Place()
    if count == 1:
        return Place()
    if rank >= count:
        raise UserError(f"machine {rank} of {count} is none: fix the number in the manifest")
    if not first:
        raise UserError(f"{count} machines require {name}, where they meet; render the manifest")
    return Place(count, rank, first)


def _number(env: Mapping[str, str], name: str, least: int) -> int:
    text = env.get(name, "")
    if not text.isdecimal() or int(text) < least:
        raise UserError(
            f"{name}={text!r} is not a number from {least}; the manifests of `pattlite render` and "
            "the systems that they are for set it"
        )
    return int(text)


def agent_arguments(place: Place, processes: int, command: Sequence[str]) -> list[str]:
    """What torchrun's agent is given.

    Args:
        place: of this machine.
        processes: to start on it.
        command: a verb and its arguments.
    """
    where = ["--standalone"]
    if place.count > 1:
        host = f"[{place.first}]" if ":" in place.first else place.first
        where = [
            f"--nnodes={place.count}",
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint={host}:{PORT}",
            "--rdzv-id=pattlite",
            # torchrun would guess it from names, of which a container may have several.
            f"--rdzv-conf=is_host={int(place.rank == 0)}",
        ]
    counts = [f"--nproc-per-node={processes}", f"--max-restarts={_RESTARTS}"]
    return [*where, *counts, "-m", "pattlite_dist", *command]


def wait_for_first(place: Place, patience: float = _PATIENCE) -> bool:
    """Wait until the first machine can be found, or, as seen from another, listens.

    Its image may still be on its way, for longer than torchrun is ready to wait.

    Args:
        place: of this machine.
        patience: seconds.
    """
    end = time.monotonic() + patience
    said = False
    while not _found(place):
        if time.monotonic() >= end:
            return False
        if not said:
            print(f"pattlite: waits for {place.first}:{PORT}", file=sys.stderr, flush=True)
            said = True
        time.sleep(_EVERY)
    return True


def _found(place: Place) -> bool:
    try:
        if place.rank == 0:
            socket.getaddrinfo(place.first, PORT)
        else:
            socket.create_connection((place.first, PORT), timeout=_EVERY).close()
    except (OSError, UnicodeError):
        return False
    return True


def main(command: Sequence[str] | None = None) -> int:
    """Run one machine's part to its end; returns the exit status.

    2 for a user's mistake, 128 + the number of a signal, 75 if the machines lost each other.
    """
    command = list(sys.argv[1:] if command is None else command)
    try:
        place = place_of(os.environ)
        processes = _number(os.environ, PROCESSES, 1) if PROCESSES in os.environ else _processes()
    except UserError as error:
        print(f"pattlite: error: {error}", file=sys.stderr)
        return elastic.MISTAKE
    if not command:
        print("usage: python -m pattlite_dist.runtime.launch VERB ...", file=sys.stderr)
        return elastic.MISTAKE
    # The kernel ignores it for a container's first process that has no handler, as until torchrun
    # starts workers, and the pod would stay for the whole grace period.
    signal.signal(signal.SIGTERM, _end)
    if place.count > 1 and not wait_for_first(place):
        print(
            f"pattlite: error: {place.first}:{PORT} did not answer within {_PATIENCE:.0f} s; check "
            "that the first machine was started, and that the port is open between machines",
            file=sys.stderr,
        )
        return 1
    return elastic.main(agent_arguments(place, processes, command), unmet=AGAIN, lost=AGAIN)


def _end(signum: int, _: object) -> NoReturn:
    raise SystemExit(128 + signum)


def _processes() -> int:
    """One for each GPU that torch sees, or one."""
    from pattlite_dist.runtime.devices import count

    return count() or 1


if __name__ == "__main__":
    sys.exit(main())
