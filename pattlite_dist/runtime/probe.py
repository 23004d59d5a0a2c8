"""Whether each node of a run can do its work, looked at before training begins.

What the checks of all nodes mean is decided by `judge`, on every rank alike. What all nodes have in
common is the fault of none of them, but of how they were set up: then it is only said.
"""

import contextlib
import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pattlite_dist.errors import BadNode
from pattlite_dist.runtime import world as worlds
from pattlite_dist.runtime.bounded import within
from pattlite_dist.runtime.checkup import (
    check_device,
    check_folder,
    check_room,
    check_temporary,
    write_token,
)
from pattlite_dist.runtime.network import node_name
from pattlite_dist.runtime.world import World

SECONDS = 60.0  # that all checks may take, of which they use a hundredth where nothing is wrong
APART = 60.0  # seconds that clocks may differ by
LOCAL = frozenset({"room", "clock"})  # checks without which a node may still do its work

Checks = Mapping[str, Callable[[], str | None]]


class Answer(NamedTuple):
    """What a rank says of its node.

    Attributes:
        node: name.
        failed: what is wrong, by check.
        clock: seconds since 1970, at a moment that the ranks share.
        crashed: error of the probe itself, which is no fault of the node.
    """

    node: str
    failed: Mapping[str, str] = {}
    clock: float | None = None
    crashed: str | None = None


class Verdict(NamedTuple):
    """What the answers mean: what is wrong with nodes that failed, by name, and what to say."""

    bad: dict[str, list[str]]
    notes: list[str]


def judge(
    answers: Sequence[Answer],
    server: float | None = None,
    tolerated: Sequence[str] = (),
    strict: bool = True,
) -> Verdict:
    """What is wrong with which node.

    Args:
        answers: of all ranks.
        server: the clock of the file server at the moment of the ranks' own.
        tolerated: nodes that have failed before, but could not be spared.
        strict: whether a node can fail by what it may do without; otherwise that is only said.
    """
    nodes = list(dict.fromkeys(answer.node for answer in answers))
    found: dict[str, dict[str, str]] = {node: {} for node in nodes}
    for answer in answers:
        for check, what in answer.failed.items():
            found[answer.node].setdefault(check, what)
    for node, text in _clocks(answers, server).items():
        found[node]["clock"] = text
    common = {check for check in LOCAL if all(check in failed for failed in found.values())}
    bad: dict[str, list[str]] = {}
    notes = []
    for node, failed in found.items():
        for check, what in failed.items():
            if check in LOCAL and (check in common or not strict or node in tolerated):
                notes.append(f"{node}: {what}")
            else:
                bad.setdefault(node, []).append(what)
    crashed = [f"{a.node}: the probe itself failed: {a.crashed}" for a in answers if a.crashed]
    return Verdict(bad, notes + list(dict.fromkeys(crashed)))


def _clocks(answers: Sequence[Answer], server: float | None) -> dict[str, str]:
    """What to say of nodes whose clock is not that of most; of two, the file server decides."""
    clocks: dict[str, float] = {}
    for answer in answers:
        if answer.clock is not None:
            clocks.setdefault(answer.node, answer.clock)
    votes = [*clocks.values(), *([] if server is None else [server])]
    if len(clocks) < 2:  # nothing else to compare with but a server that may be wrong itself
        return {}
    right = statistics.median_low(votes)
    return {
        node: f"its clock is {abs(clock - right):,.0f} s {'fast' if clock > right else 'slow'}"
        for node, clock in clocks.items()
        if abs(clock - right) > APART
    }


def told(bad: Mapping[str, Sequence[str]]) -> str:
    """Nodes that failed and why, in one line."""
    return "; ".join(f"node {node} failed its probe: {', '.join(why)}" for node, why in bad.items())


def answer(node: str, checks: Checks, clock: float | None, seconds: float = SECONDS) -> Answer:
    """Carry the checks out, each of which says what is wrong, in bounded time.

    Args:
        node: name of this one.
        checks: by name.
        clock: of `Answer`.
        seconds: for all of them; the one that is not done by then has failed.
    """
    failed: dict[str, str] = {}
    crashed: list[str] = []
    at = [""]

    def work() -> None:
        for name, check in checks.items():
            at[0] = name
            try:
                what = check()
            except Exception as error:  # ours: it must not keep a run from starting
                crashed.append(f"{name}: {type(error).__name__}: {error}")
                continue
            if what is not None:
                failed[name] = what

    done = within(seconds, work, "probe")  # before what it has found is read
    found = dict(failed)
    if not done:
        found[at[0]] = f"no answer in {seconds:.0f} s to the check of its {at[0]}"
    return Answer(node, found, clock, "; ".join(crashed) or None)


def meet(world: World) -> list[str]:
    """The names of the nodes, in the order of their ranks. Collective."""
    return list(dict.fromkeys(worlds.from_all(world, node_name())))


def probe(
    world: World,
    run: Path | None,
    accelerator: str,
    cache: Path | None,
    minutes: float,
    tolerated: Callable[[], Sequence[str]],
) -> Verdict:
    """Have each node look whether it can train. Collective.

    Args:
        world: which rank this is.
        run: folder, which exists; None if the nodes do not share it.
        accelerator: as for `world.device`.
        cache: folder of decoded shards on the nodes.
        minutes: that ranks wait for each other, of which the checks take a part at most.
        tolerated: gives, on rank 0, those of `judge`.
    """
    node = node_name()
    worlds.from_all(world, node)  # after it, all are at the same moment
    clock = time.time()
    given: tuple[str | None, float | None, list[str]] = (None, None, [])
    if world.main:
        token, server = (None, None) if run is None else write_token(run)
        given = (token, None if server is None else clock + server, list(tolerated()))
    token, server, spared = worlds.from_main(world, given)
    checks: dict[str, Callable[[], str | None]] = {
        "device": lambda: check_device(worlds.device(world, accelerator))
    }
    if world.local_rank == 0:

        def room() -> str | None:
            folders = {"data.cache": cache, "TMPDIR": Path(tempfile.gettempdir())}
            return check_temporary() or check_room(folders)

        if run is not None:
            checks["run folder"] = functools.partial(check_folder, run, token, node)
        checks["room"] = room
    own = answer(node, checks, clock, min(SECONDS, 20 * minutes))
    answers = worlds.from_all(world, own)
    if world.main and run is not None and token is not None:
        with contextlib.suppress(OSError):
            (run / token).unlink()
    return judge(answers, server, spared, world.launcher == "slurm")


def refuse(verdict: Verdict) -> None:
    """End this start if a node has failed.

    Raises:
        BadNode: it has; the message says which and why.
    """
    if verdict.bad:
        raise BadNode(told(verdict.bad))
