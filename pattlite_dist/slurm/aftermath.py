"""What becomes of a job whose ranks have ended with a failure; the batch script asks, at its end.

`python -m pattlite_dist.slurm.aftermath FOLDER STATUS` exits with the status that the job ends
with. A rank cannot decide this that was killed, or signalled before it could note signals. A job
whose work is done ends well, whatever its ranks were sent afterwards. One that was asked to stop
goes back into the queue, as does one that crashed, while it gets on. A user's mistake stays.
"""

import contextlib
import os
import pickle
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pattlite_dist.runtime.elastic import MISTAKE
from pattlite_dist.runtime.probe import told as told_of
from pattlite_dist.runtime.signals import STOPPING
from pattlite_dist.slurm.exclude import Choice, Exclusion, failed
from pattlite_dist.slurm.job import CommandJob, TrainJob
from pattlite_dist.slurm.requeue import ALIVE, ask_until_answered, requeue_until_done, say
from pattlite_dist.tracking import crashes, history

BEGIN = "pattlite: begins on "  # what the script prints first, before the names of the nodes
_STOPPED = {128 + signum for signum in STOPPING}
# Of srun, which knows how each task ended: `srun: error: n2: task 1: Killed`. A task may have been
# about to end its own line.
_TASK = re.compile(r"srun: error: (\S+): tasks? ([\d,-]+): (.+?)\s*(?:\(core dumped\))?$")
_OTHERS = ("Exited with exit code", "Terminated")  # how those end that another leaves behind
_ENDS_ALL = "Terminating StepId"  # srun, once one has failed; who does not end by then is killed
_WORDS = {
    "Killed": "was killed",
    "Out Of Memory": "was out of memory",
    "Segmentation fault": "crashed (segmentation fault)",
    "Aborted": "aborted",
    "Bus error": "crashed (bus error)",
}
_TAIL = 1 << 20  # bytes of a log that are searched

Verdict = Literal["done", "mistake", "asked", "crashed"]


def judge(status: int, events: Sequence[Mapping[str, Any]]) -> Verdict:
    """What the end of a start means.

    Args:
        status: of srun, not 0.
        events: of the run, since the job was started.
    """
    names = [event["event"] for event in events]
    if "finished" in names:
        return "done"
    if status == MISTAKE or any(event.get("final") for event in events):
        return "mistake"
    if "failed" in names or "probed" in names:
        return "crashed"
    if "stopped" in names or ("started" not in names and status in _STOPPED):
        return "asked"
    return "crashed"


def task_failure(log: str) -> str | None:
    """Which rank on which node was the first to crash since the job was started, by srun's word.

    Args:
        log: of the job, of all its starts.
    """
    others: tuple[str, ...] = _OTHERS
    for line in log[log.rfind(BEGIN) + 1 :].splitlines():
        if _ENDS_ALL in line:
            others = (*_OTHERS, "Killed")
        match = _TASK.search(line)
        if match is not None and not match[3].startswith(others):
            ranks = "ranks" if re.search("[,-]", match[2]) else "rank"
            return f"{ranks} {match[2]} on {match[1]} {_WORDS.get(match[3], f'ended: {match[3]}')}"
    return None


def why(
    status: int, events: Sequence[Mapping[str, Any]], log: str, steps: int | None = None
) -> str:
    """Why a start crashed, in a few words.

    Args:
        status: of srun.
        events: of the run, since the job was started.
        log: of the job.
        steps: that the record holds.
    """
    told = [told_of(event["bad"]) for event in events if event["event"] == "probed"]
    told += [str(event["error"]) for event in events if event["event"] == "failed"]
    own = task_failure(log)
    if own is not None:
        return own if steps is None else f"{own} after step {steps:,}"
    return told[-1] if told else f"exit status {status}"


def end_of(folder: Path, status: int) -> int:
    """Decide about this job, and requeue it if it should run again; returns its exit status.

    Args:
        folder: of submitit's pickles and the logs.
        status: of srun.
    """
    job = history.job_id() or ""
    work = _unpickled(folder / f"{job}_submitted.pkl")
    if isinstance(work, TrainJob):
        return _end_training(work, folder, job, status)
    if not isinstance(work, CommandJob):
        return status
    result = _unpickled(folder / f"{job}_0_result.pkl")
    if isinstance(result, tuple) and result[:1] == ("success",):
        return 0
    if status in _STOPPED and ask_until_answered(job) in ALIVE:
        say(f"job {job} was stopped before it began: it goes back into the queue")
        return status if requeue_until_done(job, None) else 0
    return status


def _end_training(work: TrainJob, folder: Path, job: str, status: int) -> int:
    events = history.read(work.run)
    mine = history.of_this_start(events)
    verdict = judge(status, mine)
    if verdict == "done":
        return 0
    if verdict == "mistake":
        return status
    state = ask_until_answered(job)
    if state not in ALIVE and (state or verdict == "asked"):
        return status  # SLURM is ending it, or will start it again by itself, or may do so
    facts: dict[str, Any] = {}
    exclusion: Exclusion | None = None
    if verdict == "crashed":
        step, steps = _progress(work.run)
        reason = why(status, mine, _tail(folder / f"{job}_0_log.out"), steps)
        facts = {"error": reason, "step": step, "lost": _lost(work.run, mine)}
        over = crashes.given_up([*crashes.in_vain(events, step), reason])
        if over is not None:
            say(f"job {job} ends: {over}")
            history.note_failed(work.run, over, final=True, cause=reason, lost=facts["lost"])
            return status
        say(f"{reason}; job {job} goes back into the queue and continues from step {step:,}")
    restarts = history.restart_count()
    error: str | None = f"restarted {restarts} times, which is its limit"
    if restarts < work.max_requeues:
        nodes = int(os.environ.get("SLURM_JOB_NUM_NODES") or 1)
        if bad := failed(mine, nodes):
            script = folder / f"{job.partition('_')[0]}_submission.sh"
            exclusion = Exclusion(job, bad, nodes, script)
        error = requeue_until_done(job, work.requeue_command)
    if error is not None:
        told = ": ".join(filter(None, [error, facts.get("error")]))
        say(f"job {job} is not requeued: {told}")
        history.note_failed(work.run, told, final=True)
        return status
    if exclusion is not None:
        facts |= _excluded(exclusion)
    history.append(work.run, "requeued", **facts)
    return 0


def _excluded(exclusion: Exclusion) -> dict[str, list[str]]:
    """Exclude nodes from the job, which waits now; what to note of them."""
    choice = exclusion.choice
    if not exclusion.apply():
        choice = Choice((), (*choice.out, *choice.kept))
    lists = {"excluded": list(choice.out), "kept": list(choice.kept)}
    return {name: nodes for name, nodes in lists.items() if nodes}


def _lost(run: Path, events: Sequence[Mapping[str, Any]]) -> float:
    """Seconds since the newest checkpoint, or since this start of the run."""
    from pattlite_dist.train.names import listed

    begun = [event.get("time") for event in events if event["event"] == "started"]
    moments = [float(moment) for moment in begun if isinstance(moment, int | float)]
    if not moments:
        return 0.0
    for found in listed(run / "checkpoints"):
        with contextlib.suppress(OSError):
            moments.append((run / "checkpoints" / found.name).stat().st_mtime)
    return round(max(time.time() - max(moments), 0.0), 1)


def _progress(run: Path) -> tuple[int, int | None]:
    """The steps that the newest checkpoint holds, and those that the record does."""
    from pattlite_dist.tracking.record import RECORD_NAME, read_metrics
    from pattlite_dist.train.names import listed

    step = max((found.step for found in listed(run / "checkpoints")), default=0)
    try:
        lines = read_metrics(run / RECORD_NAME)
    except (OSError, ValueError):
        return step, None
    steps = [line["step"] + 1 for line in lines if isinstance(line.get("step"), int)]
    return step, max(steps, default=None)


def _tail(log: Path) -> str:
    try:
        with log.open("rb") as stream:
            stream.seek(max(stream.seek(0, os.SEEK_END) - _TAIL, 0))
            return stream.read().decode(errors="replace")
    except OSError:
        return ""


def _unpickled(path: Path) -> Any:
    """What submitit has written for this job; None if nothing."""
    try:
        content = pickle.loads(path.read_bytes())
    except Exception:  # whatever a damaged pickle raises
        return None
    return getattr(content, "function", content)


if __name__ == "__main__":
    sys.exit(end_of(Path(sys.argv[1]), int(sys.argv[2])))
