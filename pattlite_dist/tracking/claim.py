"""Two starts of one job at once: the older gives a run's folder up to the newer.

A node whose daemon dies counts as lost, and SLURM starts the job elsewhere, but its processes may
live on and train. The newer start writes a claim into the folder; the older one looks for it.
"""

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pattlite_dist.tracking.history import job_id, restart_count

CLAIM_NAME = "run.claim"
_EVERY = 2.0  # seconds between two looks


def me() -> dict[str, Any]:
    """This process, as a lock or a claim names it."""
    return {
        "job": job_id(), "restart": restart_count(), "host": socket.gethostname(),
        "pid": os.getpid(),
    }  # fmt: skip


def is_older(holder: dict[str, Any]) -> bool:
    """Whether a process belongs to an earlier start of the job of this one."""
    own, restart = me(), holder.get("restart")
    same = own["job"] is not None and holder.get("job") == own["job"]
    return same and isinstance(restart, int) and restart < own["restart"]


def claim(run: Path) -> None:
    """Ask an older start to save and end."""
    with contextlib.suppress(OSError):  # a full disk: it is waited for nevertheless
        (run / CLAIM_NAME).write_text(json.dumps(me()), encoding="utf-8")


def withdraw(run: Path) -> None:
    """The folder is this start's."""
    with contextlib.suppress(OSError):
        (run / CLAIM_NAME).unlink(missing_ok=True)


def is_claimed(run: Path) -> bool:
    """Whether a newer start of this job asks for the folder."""
    try:
        claimant = json.loads((run / CLAIM_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    own = me()
    if not isinstance(claimant, dict) or own["job"] is None or claimant.get("job") != own["job"]:
        return False
    restart = claimant.get("restart")
    return isinstance(restart, int) and restart > own["restart"]


def look_out(run: Path, over: threading.Event, work: Callable[[], None]) -> None:
    """Call `work`, in a thread, once a newer start asks for the folder.

    Args:
        run: folder.
        over: ends the thread.
        work: called at most once.
    """

    def look() -> None:
        while not over.wait(_EVERY):
            if is_claimed(run):
                work()
                return

    if job_id() is not None:
        threading.Thread(target=look, name="pattlite-claim", daemon=True).start()
