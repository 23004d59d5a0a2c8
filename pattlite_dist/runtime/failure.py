"""How a rank that fails alone ends the others, and how its error stays the one that is read.

The others notice by a lost connection, whose error says nothing of the cause. So a rank that fails
writes its error into the ranks' common store before it ends, and waits until all know.
A thread of each rank looks there. It also ends a rank that does not notice by itself, as when it
waits for a GPU.
"""

import atexit
import contextlib
import datetime
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

from pattlite_dist.errors import Unreachable, UserError
from pattlite_dist.runtime import network
from pattlite_dist.runtime.bounded import within
from pattlite_dist.runtime.elastic import first_to_end, note_failure

EVERY = 0.25  # seconds between two looks
GRACE = 1.0  # until an error of another rank counts as the cause: all may raise the same
PATIENCE = 3.0  # how long a failed rank stays, so that all others can learn why
LIMIT = 10.0  # until a rank that knows of another's error, but cannot end, is ended
# Of Gloo, NCCL and the store, whatever class they raise.
_LOST = re.compile(r"gloo/|\bNCCL\b|\bnccl|TCPStore|Connection (closed|reset) by peer")


class PeerFailed(Exception):
    """This rank ended because another did; the message is one line that says which and why.

    Attributes:
        noted: whether the history holds it already.
        mistake: whether the other rank ended by a mistake of the user's.
    """

    def __init__(self, text: str, noted: bool = False, mistake: bool = False) -> None:
        super().__init__(text)
        self.noted, self.mistake = noted, mistake


class NoGroup(Exception):
    """The ranks could not connect to each other; the message is one line.

    Attributes:
        reached: whether this rank had reached rank 0.
    """

    def __init__(self, text: str, reached: bool = True) -> None:
        super().__init__(text)
        self.reached = reached


def no_group(rank: int, size: int, own: str | None, error: Exception) -> str:
    """Why a rank could not join the others, and what to set, in one line.

    Args:
        rank: of this process.
        size: number of ranks.
        own: address of this machine; None if the main address could not be reached.
        error: of PyTorch.
    """
    said = " ".join(str(error).split("\n", 1)[0].split())[:200]
    main = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    if own is None:
        return (
            f"rank {rank} cannot reach rank 0 at {main} ({said}); check that it was started, "
            "or set MASTER_ADDR to an address of its machine that all machines reach"
        )
    name = os.environ.get(network.GLOO, "the interface of the machine's name")
    return (
        f"rank {rank} cannot connect to the other {size - 1} from {own} on {name} "
        f"({said}); set {network.GLOO} to the interface that leads to {main} and to all machines"
    )


def is_lost(error: BaseException) -> bool:
    """Whether an error means that another rank cannot be reached."""
    import torch.distributed as dist

    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and _LOST.search(str(error)) is not None


def reason(error: BaseException) -> str:
    """An error in one line, as at the end of its traceback."""
    text = str(error).strip().splitlines()
    if isinstance(error, UserError | Unreachable) and text:
        return text[-1]
    return ": ".join([type(error).__name__, *text[:1]])


class Watch:
    """One rank's view of the failures of all.

    Args:
        store: of the process group.
        look: the same store by another connection, for the thread.
        rank: of this process.
        size: number of ranks.
    """

    def __init__(self, store: Any, look: Any, rank: int, size: int) -> None:
        self._store, self._look, self._rank, self._size = store, look, rank, size
        self._over = threading.Event()
        self.heard: str | None = None
        self.noted = self.mistake = False
        self.on_failure: Callable[[str, bool], None] | None = None
        self.on_hang: Callable[[], None] | None = None
        self._thread = threading.Thread(target=self._run, name="pattlite-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop looking."""
        self._over.set()
        self._thread.join(PATIENCE)

    def judge(self, error: Exception) -> Exception:
        """The error to end with: this rank's own, of which the others learn, or `PeerFailed`."""
        self.stop()
        with contextlib.suppress(Exception):  # with rank 0, the store is gone
            if self.heard is None and self._store.check(["failed"]):
                self._hear(self._store)
        if is_lost(error):
            text = self.heard or (
                "lost the connection to the other ranks, of which one has ended: its own output "
                "says why"
            )
            note_failure(text, primary=self.heard is not None)
            return PeerFailed(text, self.noted, self.mistake)
        text = f"rank {self._rank} failed: {reason(error)}"
        if not isinstance(error, UserError):
            note_failure(text, primary=True)
        with contextlib.suppress(Exception):
            if self.heard is None:
                if isinstance(error, UserError):
                    self._store.set("mistake", "")
                self._store.compare_set("failed", "", text)
            deadline = time.monotonic() + PATIENCE
            self._store.add("known", 1)
            self._wait("known", self._size, deadline)
            # The store is rank 0's: without it PyTorch would print a trace on the others.
            if self._rank == 0:
                self._wait("left", self._size - 1, deadline)
            else:
                self._store.add("left", 1)
        return error

    def _hear(self, store: Any) -> None:
        self.mistake = store.check(["mistake"])
        self.heard = store.get("failed").decode()

    def _wait(self, name: str, number: int, deadline: float) -> None:
        while self._store.add(name, 0) < number and time.monotonic() < deadline:
            time.sleep(0.02)

    def _run(self) -> None:
        """In the thread: wait for an error of another rank."""
        try:
            while not self._look.check(["failed"]):
                if self._over.wait(EVERY):
                    return
            self._hear(self._look)
        except Exception:  # the store ended with rank 0
            self.heard = self.heard or None
        hangs = False
        with contextlib.suppress(Exception):
            hangs = self.heard is not None and self._look.check(["hang"])
        if hangs and self.on_hang is not None:
            self.on_hang()
        if self._over.wait(GRACE):
            return  # this rank has failed as well
        if self.heard is not None:
            self.noted = self._tell_of(self.heard)
            with contextlib.suppress(Exception):
                self._look.add("known", 1)
                if self._rank:
                    self._look.add("left", 1)
        if not self._over.wait(LIMIT):
            text = self.heard or "rank 0 has ended: its own output says why"
            note_failure(text, primary=self.heard is not None)
            tell(text)
            leave(1)

    def _tell_of(self, heard: str) -> bool:
        work, noted = self.on_failure, False
        with contextlib.suppress(OSError):
            noted = work is not None and within(PATIENCE, lambda: work(heard, self.mistake), "note")
        return noted


def tell(text: str) -> None:
    """Print the error that ends this rank, once for all ranks of a machine under torchrun."""
    if first_to_end():
        say(f"pattlite: error: {text}")


def say(text: str) -> None:
    """Print a line on the standard error, in bounded time: it may be a file on a lost disk."""

    def write() -> None:
        # At once: with `python -u`, `print` writes the end of the line by itself, after another's.
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    with contextlib.suppress(OSError, ValueError):
        within(PATIENCE, write, "say")


def leave(status: int) -> NoReturn:
    """End this process at once, waiting for nothing that may not come."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            within(PATIENCE, stream.flush, "flush")
    os._exit(status)


class _State:
    """Of this process.

    Attributes:
        watch: while it is in a group.
        status: to exit with once it has failed in it.
        connect: makes a further connection to the ranks' store.
    """

    watch: Watch | None = None
    status: int | None = None
    connect: Callable[[], Any] | None = None


def begin(store: Any, rank: int, size: int, timeout: datetime.timedelta) -> None:
    """Look out for failures, from when the group has been formed; called on all ranks."""
    import torch.distributed as dist
    from torch.distributed import TCPStore  # type: ignore[attr-defined]
    from torch.distributed.distributed_c10d import PrefixStore

    # Attempts of torchrun may share a store. Its own count of them is no name for one: a machine
    # that joins later has counted fewer.
    names = [f"pattlite-{time.time_ns()}"]
    dist.broadcast_object_list(names, src=0)
    [prefix] = names

    def connect() -> Any:
        look = TCPStore(store.host, store.port, is_master=False, timeout=timeout)
        return PrefixStore(prefix, look)

    _State.connect = connect
    _State.watch = Watch(PrefixStore(prefix, store), connect(), rank, size)
    _State.status = None
    atexit.register(_leave)


def end() -> None:
    """The group is left in good order."""
    if _State.watch is not None:
        _State.watch.stop()
        _State.watch = _State.connect = None


def on_failure(work: Callable[[str, bool], None]) -> None:
    """Have `work` called, in a thread, with the error of another rank that ends this one.

    Args:
        work: takes the error, and whether it is a mistake of the user's.
    """
    if _State.watch is not None:
        _State.watch.on_failure = work


def on_hang(work: Callable[[], None]) -> None:
    """Have `work` called, in a thread, before this rank ends because the run hangs."""
    if _State.watch is not None:
        _State.watch.on_hang = work


def another_store() -> Any:
    """The ranks' common store, by a connection of its own; None outside of a group."""
    return None if _State.connect is None else _State.connect()


def judge(error: Exception) -> Exception:
    """The error to end with; `error` itself outside of a group, or once judged."""
    if _State.watch is None or _State.status is not None:
        return error
    found = _State.watch.judge(error)
    _State.status = 2 if isinstance(found, UserError) else 1
    return found


def _leave() -> None:
    """At exit, after a failure: end at once, as the group's own end may wait for lost ranks."""
    if _State.watch is not None and _State.status is not None:
        leave(_State.status)
