"""The state of runs, from their folders and, if there is one, from SLURM."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pattlite_dist.slurm import queue
from pattlite_dist.slurm.facts import Facts, read_facts
from pattlite_dist.slurm.jobinfo import JobInfo
from pattlite_dist.train.names import parse_name

# States of a run that does not have to be started again.
GOING_WELL = frozenset(
    {"finished", "completed", "pending", "running", "configuring", "completing", "requeued",
     "requeue_hold", "resizing", "suspended", "signaling", "stage_out"}
)  # fmt: skip
_MOST_STATE = 48  # characters of it that the table shows


class Row(NamedTuple):
    """A run as `status` shows it: counts, fractions, seconds; None if unknown.

    `straggler` is the rank that the others wait for, if that costs more than a tenth of a step.

    `excluded` are the nodes that its job does without, because they failed.

    `test_of` is the checkpoint that `test_top1` is of, if that is no longer the best on val.

    `state` is SLURM's word, in lower case, where SLURM knows the job: `pending`, `running`,
    `timeout`, … But a run that took its last step is `finished`, and where SLURM does not know the
    job the history decides: `failed`, `stopped`, `cancelled`; `lost` if by its history it runs or
    waits; `unknown` if there is no SLURM to ask, or no history.
    """

    run: str
    job: str | None
    state: str
    reason: str
    epoch: int | None
    epochs: int | None
    step: int
    steps: int | None
    val_top1: float | None
    test_top1: float | None
    test_of: str | None
    restarts: int
    time_left: float | None
    limit_left: int | None
    straggler: str | None
    excluded: tuple[str, ...]


def make_row(
    facts: Facts,
    info: JobInfo | None,
    answered: bool,
    now: float,
    before: JobInfo | None = None,
) -> Row:
    """The state of a run.

    Args:
        facts: from its folder.
        info: its training job, if SLURM knows it.
        answered: whether SLURM answered at all.
        now: seconds since 1970.
        before: the job that this one waited for, likewise.
    """
    standing = facts.standing
    state, reason = _state(facts, info, answered, now)
    if state == "cancelled" and standing.last == "submitted" and standing.after is not None:
        if before is None:
            reason = f"after job {standing.after}, which did not succeed"
        elif not before.live and before.state != "COMPLETED":
            reason = f"job {before.job} before it: {before.state.lower()}"
    steps = left = None
    if facts.epochs and standing.steps_per_epoch:
        steps = facts.epochs * standing.steps_per_epoch
    if steps is not None and facts.step_seconds is not None and state != "finished":
        left = facts.step_seconds * max(steps - facts.steps, 0)
    return Row(
        run=facts.run,
        job=standing.job,
        state=state,
        reason=reason,
        epoch=facts.epoch,
        epochs=facts.epochs,
        step=facts.steps,
        steps=steps,
        val_top1=facts.val_top1,
        test_top1=facts.test_top1,
        test_of=facts.test_of,
        # Only SLURM counts starts that ended before training began, but just one job's.
        restarts=max(standing.starts - 1, info.restarts if info else 0, 0),
        time_left=left,
        limit_left=info.left if info is not None else None,
        straggler=facts.straggler,
        excluded=facts.excluded,
    )


def _state(facts: Facts, info: JobInfo | None, answered: bool, now: float) -> tuple[str, str]:
    """State and reason."""
    standing = facts.standing
    last, reason = standing.last, standing.reason
    if last == "finished":
        return last, reason
    ended = last in ("failed", "stopped", "cancelled")
    # An interactive job lives on when a run in it has ended.
    if info is not None and info.live and (standing.submitted or not ended):
        return info.state.lower(), info.reason
    if info is not None and not info.live:
        if info.state == "COMPLETED" and ended:
            return last, reason
        if info.state in ("COMPLETED", "CANCELLED"):  # its reason is why it had waited
            return info.state.lower(), ""
        if last != "failed":
            reason = f"exit {info.exit_code}" if info.exit_code else info.reason
        return info.state.lower(), reason
    if ended:
        return last, reason
    seen = "" if facts.seen is None else f"wrote {duration(now - facts.seen)} ago"
    known = last != "none" and standing.job is not None
    return ("lost" if answered and known else "unknown"), seen


def duration(seconds: float) -> str:
    """`0:09`, `12:30`, `4:05:00` or `2-04:05:00`, as SLURM writes it; 0 for what is negative."""
    minutes, second = divmod(max(round(seconds), 0), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}-{hour:02d}:{minute:02d}:{second:02d}"
    return f"{hour}:{minute:02d}:{second:02d}" if hour else f"{minute}:{second:02d}"


def table(rows: Sequence[Row]) -> list[list[str]]:
    """The cells of the table, header first, without columns that are empty."""
    columns: dict[str, list[str]] = {
        "run": [row.run for row in rows],
        "job": [row.job or "" for row in rows],
        "state": [_state_cell(row) for row in rows],
        "epoch": [_of(row.epoch, row.epochs) for row in rows],
        "step": [f"{row.step:,}" for row in rows],
        "val %": [_percent(row.val_top1) for row in rows],
        "test %": [_test_cell(row) for row in rows],
        "restarts": [str(row.restarts or "") for row in rows],
        "time left": ["" if row.time_left is None else duration(row.time_left) for row in rows],
        "limit left": ["" if row.limit_left is None else duration(row.limit_left) for row in rows],
        "waits for": [row.straggler or "" for row in rows],
        "without": [", ".join(row.excluded) for row in rows],
    }
    columns = {name: cells for name, cells in columns.items() if any(cells)}
    return [list(columns), *(list(cells) for cells in zip(*columns.values(), strict=True))]


def _state_cell(row: Row) -> str:
    text = f"{row.state}: {row.reason}" if row.reason else row.state
    text = " ".join(text.split())
    return text if len(text) <= _MOST_STATE else f"{text[: _MOST_STATE - 1]}…"


def _test_cell(row: Row) -> str:
    """The score; with its epoch, if that is not the one which `val %` is of."""
    if row.test_of is None or row.test_top1 is None:
        return _percent(row.test_top1)
    found = parse_name(row.test_of)
    return f"{_percent(row.test_top1)} ({f'epoch {found.epoch + 1}' if found else 'other'})"


def _of(part: int | None, whole: int | None) -> str:
    return "" if part is None else f"{part}/{'?' if whole is None else whole}"


def _percent(fraction: float | None) -> str:
    return "" if fraction is None else f"{100 * fraction:.2f}"


def survey(runs: Sequence[Path]) -> list[Row]:
    """The current state of these runs; SLURM is asked once for all of them."""
    facts = [read_facts(run) for run in runs]
    asked = {job for item in facts for job in _jobs(item) if job is not None}
    answer = queue.ask(asked)
    infos, now = answer or {}, time.time()
    rows = []
    for item in facts:
        job = training_job(item, infos)
        chosen = item._replace(standing=item.standing._replace(job=job))
        before = infos.get(item.standing.after or "")
        rows.append(make_row(chosen, infos.get(job or ""), answer is not None, now, before))
    return rows


def _jobs(facts: Facts) -> set[str | None]:
    return {facts.standing.job, facts.standing.after, *facts.standing.jobs}


def training_job(facts: Facts, infos: Mapping[str, JobInfo]) -> str | None:
    """The job that a run's state is that of: the newest, unless only an older one still lives.

    Args:
        facts: from its folder.
        infos: what SLURM knows, by job.
    """
    newest = facts.standing.job
    known = infos.get(newest or "")
    if not facts.standing.submitted or (known is not None and known.live):
        return newest
    alive = [job for job in facts.standing.jobs if job in infos and infos[job].live]
    return alive[-1] if alive else newest
