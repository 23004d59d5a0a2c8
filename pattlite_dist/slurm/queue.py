"""What SLURM says about jobs: the only module that asks it."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from pattlite_dist.errors import UserError
from pattlite_dist.slurm.jobinfo import (
    SACCT_FIELDS,
    SQUEUE_FIELDS,
    JobInfo,
    parse_max_array_size,
    parse_sacct,
    parse_squeue,
)
from pattlite_dist.tracking import history

SECONDS = 30.0  # to wait for a silent command; SLURM's own limit is usually 10
GONE = "GONE"
JOB_ID = re.compile(r"[0-9]+(_[0-9]+)?")


def call(*command: str) -> "subprocess.CompletedProcess[str] | None":
    """Run one of SLURM's commands; None if it is not installed or does not answer in time."""
    kept = {
        name: value
        for name, value in os.environ.items()
        # Users' defaults would filter or change the answer; scancel's could prompt.
        if not name.startswith(("SQUEUE_", "SACCT_", "SCANCEL_", "SINFO_"))
    }
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
            check=False,
            env={**kept, "LC_ALL": "C", "SLURM_BITSTR_LEN": "0"},  # 0: arrays' indices in full
        )
    except (OSError, subprocess.TimeoutExpired):
        return None


def ask(ids: Iterable[str]) -> dict[str, JobInfo] | None:
    """What SLURM knows about these jobs; an array's id stands for all of its jobs.

    Returns:
        By the ids that users write; jobs that are forgotten are missing. None: no answer.
    """
    wanted = {job_id for job_id in ids if JOB_ID.fullmatch(job_id)}
    if not wanted:
        return {}
    fields = ",".join(f"{field}:|" for field in SQUEUE_FIELDS)
    queue = call(
        "squeue", "--noheader", "--states=all", f"--jobs={_bases(wanted)}", f"--Format={fields}"
    )
    if queue is None or (queue.returncode and not _forgotten(queue.stderr)):
        return None
    found = parse_squeue(queue.stdout)
    missing = wanted.difference(*(info.names for info in found.values()))
    if missing:
        names = ",".join(SACCT_FIELDS)
        records = call("sacct", "-n", "-P", "-X", "-j", _bases(missing), "-o", names)
        if records is not None and not records.returncode:
            found = {**parse_sacct(records.stdout), **found}
    return {job: info for job, info in found.items() if info.names & wanted}


def _bases(ids: Iterable[str]) -> str:
    # By array, so that a sweep's thousand jobs are one id.
    return ",".join(sorted({job_id.partition("_")[0] for job_id in ids}, key=int))


def _forgotten(stderr: str) -> bool:
    # Of several ids squeue omits those that it does not know; a single one is an error.
    return "Invalid job id specified" in stderr


def jobs(ids: Iterable[str]) -> dict[str, JobInfo]:
    """As `ask`, but empty if there is no answer."""
    return ask(ids) or {}


def state_of(job_id: str) -> str | None:
    """A job's state; `GONE` if SLURM does not know it, None if there was no answer."""
    answer = call("squeue", "-h", "-t", "all", "-j", job_id, "-o", "%T")
    if answer is None or (answer.returncode and not _forgotten(answer.stderr)):
        return None
    return (answer.stdout.split() or [GONE])[0]


def max_array_size() -> int | None:
    """SLURM's MaxArraySize: the largest index of an array is one less. None: no answer."""
    answer = call("scontrol", "show", "config")
    return parse_max_array_size(answer.stdout) if answer is not None else None


def require_slurm() -> None:
    """Make sure that SLURM is there and answers.

    Raises:
        UserError: it is not, or does not.
    """
    if shutil.which("squeue") is None:
        raise UserError(
            "there is no SLURM here: `squeue` is not in PATH; work on a login node of the cluster, "
            "or train here with `pattlite train`"
        )
    answer = call("sinfo", "-h", "-o", "%P")
    if answer is None or answer.returncode:
        lines = [] if answer is None else answer.stderr.strip().splitlines()
        reason = lines[-1] if lines else f"no answer in {SECONDS:.0f} s"
        raise UserError(
            f"SLURM does not answer ({reason}); check with `sinfo`, and try again later"
        )


def live_jobs(run: Path, kind: str | None = None) -> list[JobInfo]:
    """The jobs submitted for a run that run, wait, or are still ending.

    Args:
        run: folder.
        kind: `train` or `evaluate`; default: all.

    Raises:
        UserError: there may be some, but SLURM does not answer.
    """
    submitted = history.submissions(history.read(run))
    ids = [job for job, its_kind in submitted.items() if kind in (None, its_kind)]
    found = ask(ids)
    if found is None:
        require_slurm()
        raise UserError(f"SLURM says nothing about {run}'s jobs {', '.join(ids)}; try again later")
    return [info for info in found.values() if info.live]
