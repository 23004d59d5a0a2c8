"""The publisher's side of the process that trains: it starts it, hears it, and ends it."""

import contextlib
import json
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pattlite_dist.buckets.publisher import Task, machine
from pattlite_dist.errors import Unreachable, UserError
from pattlite_dist.tracking.claim import me

_AMPLE = 600.0  # seconds to publish the end of a run that nobody asked to stop
_GRACE_OF_MOST = 30.0  # seconds: what Kubernetes gives
_LAST = {"done", "lost", "replaced"}  # a publisher's last words
_SLACK = 2.0  # seconds of a grace period that are not for publishing


class Home:
    """A run's publisher.

    Args:
        address: of the run.
        folder: of the run, on this machine.
        takeover: seconds to wait for an owner before.
        replaced: called, in a thread, once another start has taken the run.
    """

    def __init__(
        self, address: str, folder: Path, takeover: float, replaced: Callable[[], None]
    ) -> None:
        self.address, self._replaced = address, replaced
        self._task = Task(
            address,
            str(folder),
            takeover,
            {**me(), "machine": machine(), "nonce": secrets.token_hex(8)},
        )
        self._words: dict[str, dict[str, Any]] = {}
        self._heard = threading.Condition()
        self._process: subprocess.Popen[str] | None = None

    def open(self, interrupted: Callable[[], bool]) -> None:
        """Take the run, and bring its newest state to this machine.

        Args:
            interrupted: asked while this waits.

        Raises:
            UserError: the bucket cannot be used.
            Unreachable: interrupted, or another start took the run at once.
        """
        command = [sys.executable, "-m", "pattlite_dist.buckets.publisher"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        self._tell(self._task._asdict())
        threading.Thread(target=self._hear, name="pattlite-bucket", daemon=True).start()
        found = self._await(("ready", "refused", "replaced", "lost", "ended"), interrupted)
        if "ready" in found:
            return
        if "refused" in found:
            raise UserError(f"cannot use {self.address}: {found['refused']['reason']}")
        raise Unreachable(f"{self.address} was not opened; start again")

    def close(self, seconds: float | None = None) -> bool:
        """Publish the end of the run; returns whether it is in the bucket.

        Args:
            seconds: for how long to try; None: until it is there, or a long time.
        """
        if self._process is None:
            return False
        limit = _AMPLE if seconds is None else max(seconds - _SLACK, 0.0)
        if "ready" in self._words:
            self._tell({"finish": limit})
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        try:
            self._process.wait(limit + (_SLACK if seconds is None else 0.0))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._await(("ended",), lambda: False)
        return "done" in self._words

    def _await(self, words: tuple[str, ...], interrupted: Callable[[], bool]) -> dict[str, Any]:
        with self._heard:
            while not any(word in self._words for word in words) and not interrupted():
                self._heard.wait(0.2)
            return dict(self._words)

    def _tell(self, content: dict[str, Any]) -> None:
        assert self._process is not None and self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(json.dumps(content) + "\n")
            self._process.stdin.flush()

    def _hear(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        with self._process.stdout as stream:
            for line in stream:
                facts = json.loads(line)
                word = facts.pop("word")
                said = sentence(self.address, word, facts)
                if said:
                    print(f"pattlite: {said}", file=sys.stderr, flush=True)
                self._note(word, facts)
                if word == "replaced":
                    self._replaced()
        if "ready" in self._words and not self._words.keys() & _LAST:
            print(
                f"pattlite: warning: {self.address}: its publisher has ended; training continues, "
                "start again to publish",
                file=sys.stderr, flush=True,
            )  # fmt: skip
        self._note("ended", {})

    def _note(self, word: str, facts: dict[str, Any]) -> None:
        with self._heard:
            self._words[word] = facts
            self._heard.notify_all()


def sentence(address: str, word: str, facts: dict[str, Any]) -> str:
    """What the user is told of a publisher's message; empty if nothing."""
    if word == "waits":
        return (
            f"note: {address} was trained by {facts['who']} a moment ago, which is asked to end; "
            f"waiting for it at most {facts['seconds']:.0f} s"
        )
    if word == "replaced":
        return f"note: {address} is now trained by {facts['who']}; this start ends, unpublished"
    if word == "ready" and facts["fetched"]:
        return f"{address}: its state at step {max(facts['step'], 0):,} is here"
    if word == "damaged":
        return f"warning: {address}: {facts['reason']}"
    if word == "failed":
        return f"warning: {address}: not published, training continues: {facts['reason']}"
    if word == "lost":
        return f"warning: {address}: not published: {facts['reason']}; the state before stays valid"
    return ""


def time_left(noted: float, grace: float | None, ends: float | None = None) -> float:
    """Seconds that are left until this process is killed.

    Args:
        noted: when the signal arrived, seconds since 1970.
        grace: seconds that it has from then; None: 30.
        ends: when it is killed, if a notice said it, whatever the grace period is.
    """
    if ends is None:
        ends = noted + (_GRACE_OF_MOST if grace is None else grace)
    return max(ends - time.time(), 0.0)
