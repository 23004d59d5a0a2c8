"""End the jobs of runs, of sweeps, or by their ids."""

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pattlite_dist.errors import UserError
from pattlite_dist.slurm import queue
from pattlite_dist.slurm.facts import find_runs
from pattlite_dist.slurm.jobinfo import JobInfo
from pattlite_dist.tracking import history

_REFUSED = re.compile(r"job id (\S+?):? +(.+)$", re.MULTILINE)


class Wanted(NamedTuple):
    """A job to end: its id, and the run that it was submitted for, if known."""

    job: str
    run: Path | None = None
    kind: str = "train"


class Plan(NamedTuple):
    """What to cancel, and a line about each of the others."""

    live: list[tuple[JobInfo, Wanted]]
    told: list[str]


def wanted_jobs(targets: Iterable[str]) -> tuple[list[Wanted], list[str]]:
    """The jobs that runs, sweeps or ids refer to, and a line for each run without any.

    Raises:
        UserError: a target is neither an id nor a folder that holds runs.
    """
    wanted: list[Wanted] = []
    told: list[str] = []
    for target in targets:
        if queue.JOB_ID.fullmatch(target) and not Path(target).is_dir():
            wanted.append(Wanted(target))
            continue
        for run in find_runs([Path(target)]):
            jobs = history.submissions(history.read(run))
            wanted += [Wanted(job, run, kind) for job, kind in jobs.items()]
            if not jobs:
                told.append(f"{run}: was never submitted")
    return wanted, told


def make_plan(wanted: Sequence[Wanted], infos: Mapping[str, JobInfo]) -> Plan:
    """Sort the wanted jobs into those to cancel and those that have ended.

    A run's older jobs are not mentioned: only the end of its newest training job is news.
    """
    live: dict[str, tuple[JobInfo, Wanted]] = {}
    told: dict[str, str] = {}
    newest = {item.run: item.job for item in wanted if item.run and item.kind == "train"}
    named: dict[str, list[JobInfo]] = {}
    for info in infos.values():
        for name in info.names:
            named.setdefault(name, []).append(info)
    for item in wanted:
        found = named.get(item.job, [])
        for info in found:
            if info.live and (info.job not in live or item.run):
                live[info.job] = info, item
        if item.run is None or newest.get(item.run) == item.job:
            where = f" ({item.run})" if item.run else ""
            ended = {i.job: f"{i.job}{where}: ended, {i.state}" for i in found if not i.live}
            told.update(
                ended
                if found
                else {item.job: f"{item.job}{where}: SLURM does not know it (any more)"}
            )
    return Plan(list(live.values()), list(told.values()))


def refusals(stderr: str) -> dict[str, str]:
    """Why scancel did not cancel jobs, by job, from what it printed."""
    return {match[1]: match[2].strip() for match in _REFUSED.finditer(stderr)}


def cancel(targets: Sequence[str], dry_run: bool = False) -> list[str]:
    """Cancel the live jobs that `targets` refer to, and report it on standard output.

    Args:
        targets: run folders, sweeps, folders of runs, job ids.
        dry_run: only report.

    Returns:
        The ids of the jobs that were cancelled, or would be.

    Raises:
        UserError: there is nothing to cancel, no SLURM, or SLURM refused.
    """
    wanted, told = wanted_jobs(targets)
    queue.require_slurm()
    infos = queue.ask(item.job for item in wanted)
    if infos is None:
        raise UserError("SLURM did not list its jobs; nothing was cancelled, try again")
    plan = make_plan(wanted, infos)
    for line in [*told, *plan.told]:
        print(line)
    if not plan.live:
        raise UserError(f"nothing to cancel: no job of {', '.join(targets)} is running or waiting")
    refused = {} if dry_run else _scancel([info.job for info, _ in plan.live])
    done = [(info, item) for info, item in plan.live if info.job not in refused]
    for info, item in done:
        where = f" ({item.run}{'' if item.kind == 'train' else f', {item.kind}'})"
        verb = "would be cancelled" if dry_run else "cancelled"
        print(f"{info.job}{where if item.run else ''}: {verb}, was {info.state}")
        if item.run and not dry_run:
            # SLURM forgets at once a job that had not started. The folder may be a colleague's.
            with contextlib.suppress(OSError):
                history.append(item.run, "cancelled", job=info.job, kind=item.kind)
    if refused:
        reasons = "; ".join(f"{job}: {reason}" for job, reason in refused.items())
        raise UserError(f"SLURM did not cancel {reasons}; ask the jobs' owner, or try again")
    return [info.job for info, _ in done]


def _scancel(ids: Sequence[str]) -> dict[str, str]:
    """Cancel; returns why, for the jobs that were refused."""
    answer = queue.call("scancel", *ids)
    if answer is None:
        return dict.fromkeys(ids, "no answer")
    if not answer.returncode:
        return {}
    lines = answer.stderr.strip().splitlines() or [f"scancel ended with {answer.returncode}"]
    # If the message names none of these jobs, none of them counts as cancelled.
    return {job: why for job, why in refusals(answer.stderr).items() if job in ids} or (
        dict.fromkeys(ids, lines[-1])
    )
