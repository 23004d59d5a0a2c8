"""What happened to a run: `history.jsonl`, a line for each submission, start, stop and end.

SLURM forgets a job minutes after its end, and knows nothing of steps; this file records how often
a run was restarted, where it stands and why it stopped.
"""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from pattlite_dist.files import read_json_lines

HISTORY_NAME = "history.jsonl"
LONGEST = 300  # characters of an error
_NOTING = threading.Lock()  # threads of a process note the same failure at once
Event = Literal[
    "submitted",
    "started",
    "probed",
    "first_step",
    "planned",
    "stopped",
    "requeued",
    "finished",
    "failed",
    "cancelled",
    "evaluated",
]


def job_id(env: Mapping[str, str] = os.environ) -> str | None:
    """The SLURM job of this process, as SLURM writes it: `12`, or `12_3` in an array.

    None outside a job.
    """
    if "SLURM_ARRAY_JOB_ID" in env:
        return f"{env['SLURM_ARRAY_JOB_ID']}_{env.get('SLURM_ARRAY_TASK_ID', '')}"
    return env.get("SLURM_JOB_ID")


def restart_count(env: Mapping[str, str] = os.environ) -> int:
    """How often SLURM has started this job again; 0 outside a job."""
    return int(env.get("SLURM_RESTART_COUNT", 0))


def append(run: Path, event: Event, **facts: Any) -> None:
    """Add an event to a run's history, with its time, job and host.

    Args:
        run: folder.
        event: `submitted` (by the command, with `job`, and the job it comes `after`), `started`
            (with `step`, what it computes on and with, its `nodes`, and the fingerprint of its
            `shards`), `probed` (nodes have failed: with what is wrong with each, `bad`, and the
            `step`),
            `first_step`, `planned` (with `epochs`, if they are no longer those it started with),
            `stopped` (with `signal`, `step`, whether
            it was `saved`, and `noted`, the time of the signal), `requeued` (after a crash with
            `error`, the newest checkpoint's `step`, the seconds `lost` since, and the nodes that
            were `excluded`, or failed and were `kept`), `finished` (with `reason`, if before its
            last epoch), `failed` (with `error`, and `final` if a further start would fail as well;
            after the last crash that is borne, its own error as `cause`, and `lost`),
            `cancelled` (by the command, with `job`), `evaluated` (with `checkpoint` and the
            `splits` that were scored).
        facts: further keys.
    """
    line = {
        "event": event,
        "time": round(time.time(), 3),
        "job": job_id(),
        "restart": restart_count(),
        "host": socket.gethostname(),
        **facts,
    }
    try:
        with (run / HISTORY_NAME).open("a+b") as stream:
            if stream.tell():
                stream.seek(-1, os.SEEK_END)
                if stream.read(1) != b"\n":  # a crash cut the last line off
                    stream.write(b"\n")
            stream.write((json.dumps(line) + "\n").encode())
    except OSError as error:  # a full disk must not end the run
        print(f"cannot write {event} to {run / HISTORY_NAME}: {error}", file=sys.stderr)


def note_failed(run: Path, error: str, final: bool, **facts: Any) -> None:
    """Add why this start failed, if that is news; `final` if a further one would fail as well."""
    error = error[:LONGEST]
    with _NOTING:
        last = of_this_start(read(run))[-1:]
        if [(event["event"], event.get("error")) for event in last] != [("failed", error)]:
            append(run, "failed", error=error, **({"final": True} if final else {}), **facts)


def of_this_start(
    events: Sequence[Mapping[str, Any]], env: Mapping[str, str] = os.environ
) -> list[Mapping[str, Any]]:
    """The events of this job since SLURM last started it."""
    job, restart = job_id(env), restart_count(env)
    return [e for e in events if e.get("job") == job and e.get("restart") == restart]


def read(run: Path) -> list[dict[str, Any]]:
    """The events of a run, oldest first; a line cut off by a crash is skipped."""
    try:
        lines = read_json_lines(run / HISTORY_NAME)
    except OSError:
        return []
    return [event for event in lines if isinstance(event, dict) and "event" in event]


def last_start(events: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The newest start of training; empty if there was none."""
    starts = (event for event in reversed(events) if event["event"] == "started")
    return next((event for event in starts if event.get("kind", "train") == "train"), {})


def looks(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The evaluations that scored test, oldest first."""
    return [
        event
        for event in events
        if event["event"] == "evaluated" and "test" in event.get("splits", ())
    ]


class Standing(NamedTuple):
    """The state of a run's training according to its history; evaluations do not count.

    Attributes:
        job: the newest job that trained it, or was submitted to; None outside SLURM.
        submitted: whether `job` was submitted for this run, and is not an interactive session.
        last: the newest event's name, or `none`.
        starts: how often it was started.
        step: steps taken when it last stopped or ended; until then, the first step of the start.
        reason: why it stopped or failed, or finished early.
        epochs: of the whole run, if it was ever started.
        steps_per_epoch: likewise.
        begin: the time of the newest start, seconds since 1970.
        end: the time of the newest event.
        jobs: all that were submitted to train it, oldest first.
        after: the job that the newest one of these waited for.
    """

    job: str | None = None
    submitted: bool = False
    last: str = "none"
    starts: int = 0
    step: int = 0
    reason: str = ""
    epochs: int | None = None
    steps_per_epoch: int | None = None
    begin: float | None = None
    end: float | None = None
    jobs: tuple[str, ...] = ()
    after: str | None = None


def submissions(events: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The jobs ever submitted for a run, oldest first, each with its kind."""
    return {
        str(event["job"]): str(event.get("kind", "train"))
        for event in events
        if event["event"] == "submitted" and event.get("job")
    }


def standing(events: Sequence[Mapping[str, Any]]) -> Standing:
    """Summarise a history."""
    submitted = submissions(events)
    now = Standing()
    for event in events:
        name, job = event["event"], event.get("job") and str(event["job"])
        if event.get("kind", "train") != "train":
            continue
        now = now._replace(job=job or None, submitted=job in submitted)
        # A cancelled job still saves and records `stopped`, or was just about to finish.
        if not (
            (now.last == "finished" and name == "cancelled")
            or (now.last == "cancelled" and name in ("stopped", "failed", "planned"))
        ):
            reason = event.get("error") or event.get("signal") or event.get("reason") or ""
            now = now._replace(last=str(name), reason=str(reason))
        now = now._replace(
            starts=now.starts + (name == "started"),
            step=_whole(event.get("step"), now.step),
            epochs=_whole(event.get("epochs"), now.epochs),
            steps_per_epoch=_whole(event.get("steps_per_epoch"), now.steps_per_epoch),
            end=_number(event.get("time"), now.end),
        )
        if name == "started":
            now = now._replace(begin=now.end)
        if name == "submitted":
            now = now._replace(after=event.get("after"))
    return now._replace(jobs=tuple(job for job, kind in submitted.items() if kind == "train"))


_T = TypeVar("_T")


def _whole(value: Any, otherwise: _T) -> int | _T:
    return value if isinstance(value, int) else otherwise


def _number(value: Any, otherwise: _T) -> float | _T:
    return float(value) if isinstance(value, int | float) else otherwise
