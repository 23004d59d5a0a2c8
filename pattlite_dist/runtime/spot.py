"""Asks for a save once the cloud is about to take this machine back, as a signal would.

A thread of one process of each machine asks the cloud's metadata service. Most of the time it
waits for an answer, or for the next question.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping

from pattlite_dist.runtime import elastic, metadata
from pattlite_dist.runtime.notes import note
from pattlite_dist.runtime.signals import Signals
from pattlite_dist.runtime.world import World

_EVERY = 5.0  # seconds, as AWS recommends
_TRIES = 3  # a network may come later than the process
_PATIENCE = 30  # seconds: torchrun's own with its workers


@contextlib.contextmanager
def watched(mode: str, world: World, signals: Signals) -> Iterator[None]:
    """Look out for the notice of a spot machine for a while.

    Args:
        mode: `auto`, or `none` to ask nobody.
        world: which rank this is.
        signals: of this process, which learn when the machine is taken.
    """
    if mode == "none" or world.local_rank:
        yield
        return
    over = threading.Event()
    thread = threading.Thread(
        target=look_out, args=(signals, over), name="pattlite-spot", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        over.set()


def look_out(signals: Signals, over: threading.Event) -> None:
    """In the thread: ask until there is a notice, and then ask for a save.

    Args:
        signals: of this process.
        over: set once that would be of no use.
    """
    service = metadata.find()
    for _ in range(_TRIES - 1):
        if service is not None or over.wait(_EVERY):
            break
        service = metadata.find()
    if service is None:
        if not over.is_set():
            note("no cloud's metadata service answers here, so trainer.spot_notice has no effect")
        return
    found = None
    while found is None:
        with contextlib.suppress(OSError, ValueError):
            found = service.notice()
        if over.is_set() or (found is None and over.wait(_EVERY)):
            return
    process = elastic.own_agent() or os.getpid()
    signals.ends = latest(found.ends, time.time(), process != os.getpid())
    rest = "" if found.ends is None else f" in {max(found.ends - time.time(), 0):.0f} s"
    note(f"{service.name} takes this machine back{rest}: the run is to be saved")
    os.kill(process, signal.SIGTERM)


def latest(
    ends: float | None, now: float, agent: bool, env: Mapping[str, str] = os.environ
) -> float | None:
    """Until when a process may work, seconds since 1970; None if a notice does not say it.

    Args:
        ends: when its machine is taken.
        now: seconds since 1970.
        agent: whether an agent, which has been told to end, kills it after a while.
        env: the environment.
    """
    if ends is None or ends <= now:  # a clock is wrong, as this machine is still here
        return None
    if not agent:
        return ends
    grace = elastic.grace(env)
    return min(ends, now + (_PATIENCE if grace is None else elastic.patience(grace)))
