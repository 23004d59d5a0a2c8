"""Requeueing: whether a job that a signal has stopped may ask for it, and how.

submitit does the requeue and counts the time limits; this module decides, and says why not.
"""

import os
import re
import shutil
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
ALIVE = ("RUNNING", "SIGNALING")
_EVERY = 5.0  # seconds until SLURM is asked again
_NO_COMMAND = 127  # of a shell
# What scontrol says where another try may succeed.
_CONTROLLER = re.compile("controller|Connection|timed out|Socket|try again", re.IGNORECASE)
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
        would bring back a job that the user has cancelled); `wait` for SLURM's answer, if a
        preemption cannot be distinguished from a cancellation, because a job that exits by itself
        in a preemption is not restarted; `enough`, if the limit is reached.
    """
    if state is not None and state not in ALIVE:
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
    if signals.replaced:
        say(f"{stop}; a newer start of job {job} goes on with it")
        raise SystemExit(0)
    restarts = history.restart_count()
    said: set[str] = set()
    while True:
        state = state_of(job)
        verdict = decide(state, stop.signum, restarts, limit)
        _once(said, f"{stop}; job {job} is {state or 'in an unknown state'}: {verdict}")
        if verdict == "leave":
            raise SystemExit(0)
        if verdict == "enough":
            error = f"restarted {restarts} times, which is its limit"
            history.note_failed(run, error, final=True)
            raise SystemExit(1)
        if verdict == "requeue":
            failed = _requeue(signals.previous.get(signal.SIGUSR2), command, job)
            if failed is None:
                history.append(run, "requeued")
                raise SystemExit(0)
            _once(said, f"job {job} could not be requeued: {failed}")
            if stop.signum in _USER_SIGNALS:
                history.append(run, "failed", error=f"not requeued: {failed}")
                raise SystemExit(1)
        _wait()  # for the controller, or until SLURM requeues a preempted job by itself


def ask_until_answered(job: str) -> str:
    """A job's state, however long SLURM's controller is away; empty where nothing can ask it."""
    said: set[str] = set()
    while (state := state_of(job)) is None:
        if shutil.which("squeue") is None:
            say("there is no squeue here; bind SLURM's programs and files into the container")
            return ""
        _once(said, f"SLURM does not answer; asked again every {_EVERY:.0f} s")
        _wait()
    return state


def requeue_until_done(job: str, command: str | None) -> str | None:
    """Requeue a job from its batch script; returns why that cannot be.

    Args:
        job: its id.
        command: shell command that requeues `{job}`; None for scontrol.
    """
    line = command.replace("{job}", job) if command is not None else f"scontrol requeue {job}"
    said: set[str] = set()
    while True:
        done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)
        if not done.returncode:
            return None
        error = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        state = ask_until_answered(job)
        if state and state not in ALIVE:
            return None  # SLURM has done so, or ends it
        if not state or done.returncode == _NO_COMMAND or not _CONTROLLER.search(error):
            return f"`{line}`: {error}"
        _once(said, f"job {job} could not be requeued: {error}")
        _wait()


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


def say(text: str) -> None:
    """Print a line into the job's log."""
    print(f"pattlite: {text}", file=sys.stderr, flush=True)


def _once(said: set[str], text: str) -> None:
    if text not in said:
        said.add(text)
        say(text)


def _wait() -> None:
    time.sleep(_EVERY)
