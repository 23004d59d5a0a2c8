"""Requeueing: whether a job that a signal has stopped may ask for it, and how.

submitit does the requeue and counts the time limits; this module decides, and says why not.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Literal, NoReturn

from pattlite_dist.compat.submitit import requeue_by
from pattlite_dist.runtime.signals import Signals, Stopped
from pattlite_dist.slurm.queue import state_of
from pattlite_dist.tracking import history

# squeue says SIGNALING for a moment while signalling a job that keeps running.
_ALIVE = ("RUNNING", "SIGNALING")
_USER_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)


def decide(
    state: str | None, signum: int, restarts: int, limit: int
) -> Literal["requeue", "leave", "wait", "enough"]:
    """What a stopped job should do.

    Args:
        state: what SLURM says about it; None if there is no answer.
        signum: what stopped it.
        restarts: how often it was restarted.
        limit: how often it may be.

    Returns:
        `requeue`; `leave`, if SLURM is ending it or will restart it by itself (requeueing then
        would bring back a job that the user has cancelled); `wait` for SLURM's SIGKILL, if a
        preemption cannot be distinguished from a cancellation, because a job that exits by itself
        in a preemption is not restarted; `enough`, if the limit is reached.
    """
    if state is not None and state not in _ALIVE:
        return "leave"
    if restarts >= limit:
        return "enough"
    if state is None and signum not in _USER_SIGNALS:
        return "wait"
    return "requeue"


def leave(
    stop: Stopped, signals: Signals, run: Path, limit: int, command: str | None = None
) -> NoReturn:
    """End a rank of a stopped job; rank 0 first requeues the job, if it should be.

    Args:
        stop: why it ends.
        signals: still entered; holds submitit's handler.
        run: folder.
        limit: how often the job may be restarted.
        command: shell command that requeues `{job}`; default: scontrol.

    Raises:
        SystemExit: always. No result is pickled, so that the job does not count as done.
    """
    if os.environ.get("SLURM_PROCID", "0") != "0":
        raise SystemExit(0)
    job = history.job_id() or ""
    state = state_of(job)
    restarts = int(os.environ.get("SLURM_RESTART_COUNT", 0))
    verdict = decide(state, stop.signum, restarts, limit)
    _say(f"{stop}; job {job} is {state or 'in an unknown state'}: {verdict}")
    if verdict == "leave":
        raise SystemExit(0)
    if verdict == "wait":
        _wait()
    if verdict == "enough":
        history.append(run, "failed", error=f"restarted {restarts} times, which is its limit")
        raise SystemExit(1)
    error = _requeue(signals.previous.get(signal.SIGUSR2), command, job)
    if error is None:
        history.append(run, "requeued")
        raise SystemExit(0)
    _say(f"job {job} could not be requeued: {error}")
    if stop.signum not in _USER_SIGNALS:
        _wait()  # SLURM requeues a preempted job by itself
    history.append(run, "failed", error=f"not requeued: {error}")
    raise SystemExit(1)


def _requeue(handler: Any, command: str | None, job: str) -> str | None:
    """Let submitit requeue the job; returns what went wrong."""
    if not callable(handler):
        return "submitit's handler is missing; submit with `pattlite submit`"
    if command is not None:
        line = command.replace("{job}", job)  # not `format`: shells use braces too
        # By default it calls `scontrol requeue`, which containers lack.
        requeue_by(
            handler, lambda countdown: subprocess.run(line, shell=True, check=True, timeout=60)
        )
    try:
        handler(signal.SIGUSR2, None)
    except SystemExit:
        return None  # requeued: submitit leaves
    except subprocess.CalledProcessError as error:
        return f"`{error.cmd}` failed with status {error.returncode}"
    except FileNotFoundError as error:
        return f"there is no {error.filename} here; set requeue_command in the profile"
    except Exception as error:  # submitit's own: timed out too many times
        return str(error)
    return "submitit did not requeue it"


def _say(text: str) -> None:
    print(f"pattlite: {text}", file=sys.stderr, flush=True)


def _wait() -> NoReturn:
    while True:
        time.sleep(3600)
