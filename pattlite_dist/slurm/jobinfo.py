"""A job as SLURM reports it, and how the text of its commands is parsed: pure functions.

Every field is requested by name and every line that does not fit is skipped, because the output
differs between versions and sites.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

# Every other state counts as live, including those of a newer version.
ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
    "PREEMPTED", "REVOKED", "TIMEOUT",
}  # fmt: skip
SQUEUE_FIELDS = (
    "ArrayJobID", "ArrayTaskID", "JobID", "State", "Reason", "RestartCnt", "TimeLeft", "NumNodes",
    "exit_code", "Partition",
)  # fmt: skip
SACCT_FIELDS = ("JobID", "JobIDRaw", "State", "NNodes", "ExitCode", "Partition")
_TIME = re.compile(r"^(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)$")


class JobInfo(NamedTuple):
    """A job as SLURM reports it.

    Attributes:
        job: its id as users write it: `12`, or `12_3` in an array.
        number: SLURM's own number, which differs from the id in an array.
        state: RUNNING, PENDING, FAILED, …
        reason: why it waits or failed; empty where there is none.
        restarts: how often SLURM restarted it.
        left: seconds left of the time limit; None if there is no limit or the job has ended.
        nodes: number that it has or requests.
        exit_code: once it ended; 128 plus the signal if one killed it.
        partition: that it is in.
    """

    job: str
    number: str
    state: str
    reason: str = ""
    restarts: int = 0
    left: int | None = None
    nodes: int = 0
    exit_code: int | None = None
    partition: str = ""

    @property
    def live(self) -> bool:
        """Whether it runs, waits, or is still ending."""
        return self.state not in ENDED

    @property
    def names(self) -> set[str]:
        """What users may call it: its id, its array's, or SLURM's number."""
        return {self.job, self.job.partition("_")[0], self.number}


def parse_squeue(text: str) -> dict[str, JobInfo]:
    """Read squeue's lines of `SQUEUE_FIELDS`, each ended by `|`: by job id, arrays job by job."""
    found: dict[str, JobInfo] = {}
    for line in text.splitlines():
        fields = [field.strip() for field in line.split("|")]
        if len(fields) <= len(SQUEUE_FIELDS) or not fields[0].isdecimal():
            continue
        base, index, number, state, reason, restarts, left, nodes, code, partition, *_ = fields
        info = JobInfo(
            job=base,
            number=number,
            state=_state(state),
            reason="" if reason in ("None", "(null)", "N/A") else reason,
            restarts=_whole(restarts),
            nodes=_whole(nodes),
            partition=partition,
        )
        if info.live:
            info = info._replace(left=parse_seconds(left))
        else:
            info = info._replace(exit_code=parse_exit(code))
        found.update((job, info._replace(job=job)) for job in _members(base, index))
    return found


def parse_sacct(text: str) -> dict[str, JobInfo]:
    """Read sacct's lines of `SACCT_FIELDS`: by job id, the jobs that have ended.

    The database is asked only about what the controller has forgotten: a job that it lists as
    running lost its controller, or its end was never reported.
    """
    found: dict[str, JobInfo] = {}
    for line in text.splitlines():
        fields = [field.strip() for field in line.split("|")]
        if len(fields) < len(SACCT_FIELDS):
            continue
        name, number, state, nodes, code, partition, *_ = fields
        base, _, index = name.partition("_")
        info = JobInfo(
            job=base,
            number=number,
            state=_state(state),
            nodes=_whole(nodes),
            exit_code=parse_exit(code),
            partition=partition,
        )
        if base.isdecimal() and not info.live:
            found.update((job, info._replace(job=job)) for job in _members(base, index))
    return found


def _members(base: str, index: str) -> Iterator[str]:
    """Ids of the jobs of one line: a part of an array that waits, or ended waiting, is one line."""
    if not index[:1].isdecimal() and index[:1] != "[":
        yield base
        return
    for part in index.strip("[]").partition("%")[0].split(","):
        match = re.match(r"^(\d+)(?:-(\d+)(?::(\d+))?)?$", part)
        if match is not None:
            first = int(match[1])
            for member in range(first, int(match[2] or first) + 1, int(match[3] or 1) or 1):
                yield f"{base}_{member}"


def _state(text: str) -> str:
    return (text.split() or ["UNKNOWN"])[0]  # sacct says `CANCELLED by 1000`


def _whole(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def parse_seconds(text: str) -> int | None:
    """Seconds of `D-HH:MM:SS`, `HH:MM:SS` or `MM:SS`; None for UNLIMITED, NOT_SET and the like."""
    match = _TIME.match(text)
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def parse_exit(text: str) -> int | None:
    """A job's exit code as a shell would report it: 128 plus the signal that killed it, if one did.

    Args:
        text: squeue's wait status, such as `256` or `9`, or sacct's `code:signal`.
    """
    if re.match(r"^\d+:\d+$", text):
        code, signal = (int(part) for part in text.split(":"))
    elif text.isdecimal():
        code, signal = int(text) >> 8, int(text) & 127
    else:
        return None
    return code or (128 + signal if signal else 0)


def parse_max_array_size(text: str) -> int | None:
    """Find MaxArraySize in what `scontrol show config` prints."""
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)\s*$", text, re.MULTILINE)
    return int(match[1]) if match else None
