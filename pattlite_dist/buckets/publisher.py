"""The process that publishes a run while it trains, told by its parent through a pipe.

It takes the run, brings the newest state to this machine, and says `ready`; then it publishes each
new checkpoint, and now and then the record, until it is told to `finish` or its parent is gone.
"""

import contextlib
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from pattlite_dist.buckets.fetch import fetch, newest_step
from pattlite_dist.buckets.head import Head
from pattlite_dist.buckets.owner import Owner, Replaced
from pattlite_dist.buckets.shelf import Bucket, Shelf
from pattlite_dist.buckets.snapshot import Snapshots
from pattlite_dist.buckets.state import Damaged
from pattlite_dist.errors import UserError
from pattlite_dist.runtime.signals import STOPPING
from pattlite_dist.stores import Final, Transient, patiently
from pattlite_dist.tracking.lock import describe

LEASE = 60.0  # seconds without a sign of life after which an owner counts as gone
_LOOK, _RECORD_EVERY, _BEAT_EVERY = 0.5, 10.0, 15.0  # seconds
_RETRIES = 4
_GONE = "gone"  # a folder of objects by which owners say that they have ended


class Task(NamedTuple):
    """What a publisher is started with.

    Attributes:
        address: of the run.
        folder: of the run, on this machine.
        takeover: seconds to wait for an owner before.
        me: what names the process that trains.
    """

    address: str
    folder: str
    takeover: float
    me: dict[str, Any]


def waits(before: Head | None, silent: float, takeover: float) -> float:
    """How long to wait, in seconds, for an owner that may still train.

    Args:
        before: its pointer.
        silent: seconds since its last sign of life, by the bucket's clock.
        takeover: the most.
    """
    if before is None or before.released:
        return 0.0
    return max(0.0, min(LEASE - silent, takeover))


class Publisher:
    """Publishes a folder.

    Args:
        task: what and where.
        shelf: the run's.
        say: called with each message for the parent: a word, and facts.
    """

    def __init__(self, task: Task, shelf: Shelf, say: Callable[..., None]) -> None:
        self.folder, self.takeover, self.say = Path(task.folder), task.takeover, say
        self.shelf = shelf
        self.owner = Owner(shelf, task.me)
        self._snapshots = Snapshots(self.folder)
        self._seen: tuple[int, set[str]] = (-1, set())
        self._published = self._beaten = time.monotonic()
        self._complained = False

    def begin(self, told: "queue.Queue[dict[str, Any]]") -> None:
        """Take the run and bring its newest state.

        Raises:
            Final: the bucket cannot be used.
            Replaced: another start has taken the run at once.
            UserError: no state in it is complete.
        """
        before, silent = self._try(self.owner.take)
        wait = waits(before, silent, self.takeover)
        if wait and before is not None and not self._is_gone(before):
            self.say("waits", who=describe(before.owner), seconds=wait)
            end = time.monotonic() + wait
            while time.monotonic() < end and told.empty() and not self._is_gone(before):
                with contextlib.suppress(Transient):
                    self.owner.check()  # else two that replace each other wait for one another
                time.sleep(_LOOK)
        step = newest_step(self.folder)
        state = self._try(
            lambda: fetch(self.shelf, self.folder, least=step, told=self._passed_over)
        )
        self._try(self.owner.clear_others)
        fetched = state is not None and state.step > step
        self.say("ready", step=newest_step(self.folder), fetched=fetched)

    def look(self) -> None:
        """Publish what is new, and show a sign of life, if it is time.

        Raises:
            Replaced: another start has taken the run.
        """
        now = time.monotonic()
        names = {path.name for path in (self.folder / "checkpoints").glob("*.ckpt")}
        try:
            if names != self._seen[1] or now - self._published > _RECORD_EVERY:
                self.publish()
                self._seen = (0, names)
                self._published = self._beaten = time.monotonic()
            elif now - self._beaten > _BEAT_EVERY:
                self.owner.beat()
                self._beaten = now
            self._complained = False
        except (Transient, Final, OSError) as error:
            self._published = self._beaten = now
            if not self._complained:
                self.say("failed", reason=str(error))
            self._complained = True

    def publish(self) -> None:
        """Publish the folder as it is, unless nothing has changed."""
        with self._snapshots.take() as (parts, step):
            if self.owner.publish(parts, step):
                self.say("published", step=step)

    def finish(self, seconds: float) -> None:
        """Publish the end and let go.

        Args:
            seconds: for how long to try.
        """
        end = time.monotonic() + seconds
        while True:
            try:
                self.publish()
                self.owner.release()
                return self.say("done")
            except (Transient, OSError) as error:
                reason = str(error)
            except Final as error:
                return self.say("lost", reason=str(error))
            if time.monotonic() > end:
                return self.say("lost", reason=reason)
            time.sleep(_LOOK)

    def leave(self) -> None:
        """Say to the owner that has replaced this one that its process has ended."""
        assert self.owner.head is not None
        key = f"{_GONE}/{self.owner.head.number:06}"
        with contextlib.suppress(Final):  # then it is waited for until its lease runs out
            self._try(lambda: self.shelf.swap(key, b"", None))

    def _is_gone(self, before: Head) -> bool:
        if is_dead(before.owner):
            return True
        with contextlib.suppress(Transient):
            return self.shelf.get(f"{_GONE}/{before.number:06}") is not None
        return False

    def _passed_over(self, text: str) -> None:
        self.owner.trusts = False
        self.say("damaged", reason=text)

    def _try(self, work: Callable[[], Any]) -> Any:
        return patiently(work, "bucket", _RETRIES)


def machine() -> str:
    """This boot of this machine, and within it this container; empty if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115  no file
    except OSError:
        return ""


def is_dead(owner: dict[str, Any]) -> bool:
    """Whether an owner was a process of this machine that has ended."""
    pid = owner.get("pid")
    if not isinstance(pid, int) or not owner.get("machine") or owner["machine"] != machine():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def main() -> None:
    """Publish what the first line of the standard input names, until it ends."""
    for signum in STOPPING:  # the parent decides when to stop
        signal.signal(signum, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.nice(5)
    told: queue.Queue[dict[str, Any]] = queue.Queue()
    task = Task(**json.loads(sys.stdin.readline()))
    threading.Thread(target=_listen, args=(sys.stdin, told), daemon=True).start()
    try:
        work(task, Bucket(task.address), told, _say)
    except (Final, UserError, Damaged) as error:
        _say("refused", reason=str(error))
    except Replaced as error:
        _say("replaced", who=describe(error.by.owner))
    except Transient as error:
        _say("lost", reason=str(error))


def work(
    task: Task, shelf: Shelf, told: "queue.Queue[dict[str, Any]]", say: Callable[..., None]
) -> None:
    """Publish until told to finish; then, or if another start takes the run, end.

    Args:
        task: what and where.
        shelf: the run's.
        told: by the parent: `{"finish": SECONDS}`.
        say: to the parent.
    """
    publisher = Publisher(task, shelf, say)
    seconds: float | None = None
    try:
        publisher.begin(told)
        while True:
            with contextlib.suppress(queue.Empty):
                seconds = told.get(timeout=_LOOK)["finish"]
            if seconds is not None:
                return publisher.finish(seconds)
            publisher.look()
    except Replaced as error:
        say("replaced", who=describe(error.by.owner))
        if seconds is None:
            told.get()  # the parent ends at its next step
        publisher.leave()


def _listen(stream: TextIO, told: "queue.Queue[dict[str, Any]]") -> None:
    for line in stream:
        told.put(json.loads(line))
    told.put({"finish": LEASE})  # the parent was killed: what it saved is published


def _say(word: str, **facts: Any) -> None:
    with contextlib.suppress(OSError):  # the parent was killed
        print(json.dumps({"word": word, **facts}), flush=True)


if __name__ == "__main__":
    main()
