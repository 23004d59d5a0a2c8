"""Whether SLURM accepts a job and would ever run it: checked before anything is submitted."""

import re
import tempfile
from collections.abc import Iterable, Sequence

from pattlite_dist.slurm import queue
from pattlite_dist.slurm.checks import Report, shorten
from pattlite_dist.slurm.profile import Profile, parse_minutes

_SINFO = "%P|%a|%l|%D|%T"
_OUT = ("down", "drain", "fail", "maint", "unk", "err", "no_resp")  # beginnings of states
# Part of SLURM's message -> how to fix it; the first match is used.
_FIX = {
    "policy": "ask for less, or set another profile.qos (`sacctmgr show qos`)",
    "account": "set profile.account to one of yours (`sacctmgr show associations user=$USER`)",
    "qos": "set profile.qos to one of yours (`sacctmgr show associations user=$USER`)",
    "partition": "set profile.partition to one that `sinfo` lists",
    "feature": "set profile.constraint to features that `sinfo -o '%N %f'` lists",
    "node name": "fix profile.exclude",
    "node configuration": "no node in service has that much: lower profile.nodes, gpus_per_node, "
    "cpus_per_task or memory_gb (see `sinfo -N -l`)",
    "time limit": "lower profile.time",
}


def essence(stderr: str) -> str:
    """SLURM's lines of an error as one, without those that say nothing."""
    lines = []
    for line in stderr.splitlines():
        text = line.strip()
        for prefix in ("sbatch: ", "srun: ", "error: ", "allocation failure: "):
            text = text.removeprefix(prefix)
        text = text.removeprefix("Unable to allocate resources: ")
        # If a step failed, what its program printed is what matters.
        if text and not text.startswith(("Try ", "job ")) and ": task " not in text:
            lines.append(text)
    return "; ".join(shorten(list(dict.fromkeys(lines)), "lines"))


def refusal(stderr: str) -> str:
    """One line from sbatch's message about a job that it rejects."""
    said = essence(stderr) or "no reason was given"
    found = [fix for part, fix in _FIX.items() if part in said.lower()]
    return f"SLURM refuses the job: {said}; {(found or ['fix the profile'])[0]}"


def partition(wanted: str | None, minutes: int, nodes: int, sinfo: str) -> Report:
    """Whether a partition would ever run the job: sbatch accepts some that never start.

    Args:
        wanted: partitions, separated by commas; None: the default one.
        minutes: time limit.
        nodes: of the job, at least.
        sinfo: lines of name, whether it is up, time limit, nodes, their state, separated by `|`;
            the default partition's name ends in `*`.
    """
    report = Report()
    names = None if wanted is None else wanted.split(",")
    rows = [row for line in sinfo.splitlines() if len(row := line.strip().split("|")) == 5]
    rows = [row for row in rows if (row[0].rstrip("*") in names if names else "*" in row[0])]
    limits = {row[0].rstrip("*"): parse_minutes(row[2]) for row in rows}
    bounds = [bound for bound in limits.values() if bound is not None]
    if limits and len(bounds) == len(limits) and minutes > max(bounds):
        report.problems.append(
            f"profile.time is {minutes} min, but partition {','.join(limits)} allows "
            f"{max(bounds)} min at most; lower it, or the job waits forever"
        )
    there = _in_service(rows)
    if there < nodes <= sum(int(row[3]) for row in rows):  # more than exist: sbatch reports it
        report.notes.append(
            f"partition {','.join(limits)} has {there} node(s) in service and profile.nodes is "
            f"{nodes}: the job waits until more come back (see `sinfo`)"
        )
    return report


def _in_service(rows: Iterable[Sequence[str]]) -> int:
    """Nodes that run jobs, or will when they are free."""
    return sum(
        int(count)
        for _, up, _, count, state in rows
        if up == "up" and not state.endswith("*") and not state.lower().startswith(_OUT)
    )


def judge(status: int, stderr: str, waits: bool) -> Report:
    """What `sbatch --test-only` said about a job.

    Args:
        status: of sbatch.
        stderr: of sbatch.
        waits: whether nodes that the job needs are out of service.
    """
    if status:
        # sbatch says the same of nodes that are down as of nodes that do not exist.
        if waits and "node configuration" in stderr:
            return Report()
        return Report([refusal(stderr)])
    start = re.search(r"to start at (\S+) using \d+ processors on nodes (\S+)", stderr)
    return Report(notes=[f"SLURM would start the job at {start[1]} on {start[2]}"] if start else [])


def ask(profile: Profile, text: str) -> tuple[bool, Report]:
    """Ask SLURM about a job.

    Args:
        profile: of the cluster.
        text: of the job's script.

    Returns:
        Whether SLURM answers at all, and what it says.
    """
    sinfo = queue.call("sinfo", "-h", "-o", _SINFO)
    if sinfo is None or sinfo.returncode:
        said = essence(sinfo.stderr) if sinfo is not None else "`sinfo` is missing or silent"
        line = f"SLURM does not answer: {said}; work on a login node of the cluster, or try later"
        return False, Report([line])
    report = partition(profile.partition, profile.minutes, profile.node_range[0], sinfo.stdout)
    with tempfile.NamedTemporaryFile("w", prefix="pattlite-", suffix=".sh") as stream:
        stream.write(text)
        stream.flush()
        test = queue.call("sbatch", "--test-only", stream.name)
    if test is None:
        report.problems.append("`sbatch --test-only` does not answer; try again later")
    else:
        report.add(judge(test.returncode, test.stderr, bool(report.notes)))
    return True, report
