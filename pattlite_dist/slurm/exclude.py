"""Nodes that have failed their probe, and that a requeued job is to do without."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pattlite_dist.slurm import queue
from pattlite_dist.slurm.admission import essence
from pattlite_dist.slurm.requeue import say

MOST = 8  # nodes that are looked at one by one; each asks SLURM's controller a question


class Choice(NamedTuple):
    """The nodes that the next start does without, and those that failed but are kept."""

    out: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


def failed(events: Sequence[Mapping[str, Any]], nodes: int) -> list[str]:
    """The nodes that failed, by the events of one start.

    Where all others say of rank 0's node that they do not reach it, it is the one that failed.

    Args:
        events: of the start.
        nodes: of the job.
    """
    probes = [event for event in events if event["event"] == "probed"]
    found = dict.fromkeys(str(node) for event in probes for node in event.get("bad") or ())
    main = next((event["main"] for event in probes if event.get("main")), None)
    if main is not None and nodes > 2 and len(found) == nodes - 1:
        return [str(main)]
    return list(found)


def choose(bad: Sequence[str], nodes: int, fits: Callable[[Sequence[str]], bool]) -> Choice:
    """Which nodes to exclude: as many as the job can do without.

    Args:
        bad: those that failed.
        nodes: of the job. If all of several have failed, the fault is probably none of theirs.
        fits: whether the job could start without these.
    """
    if not bad or (nodes > 1 and len(bad) >= nodes):
        return Choice((), tuple(bad))
    if fits(bad):
        return Choice(tuple(bad), ())
    out: list[str] = []
    for node in bad[:MOST] if len(bad) > 1 else ():
        if fits([*out, node]):
            out.append(node)
    return Choice(tuple(out), tuple(node for node in bad if node not in out))


def already(show: str) -> str:
    """The nodes that a job is kept from, in `scontrol --oneliner show job`; empty if none."""
    found = re.search(r"\bExcNodeList=(\S+)", show)
    return found[1] if found and found[1] != "(null)" else ""


class Exclusion:
    """Excludes nodes from the next start of this job.

    SLURM takes such a list only for jobs that wait: it is decided before the job goes back into the
    queue, as its script may be ended from then on, and set after.

    Args:
        job: its id.
        bad: nodes that failed.
        nodes: of the job.
        script: of the job.
    """

    def __init__(self, job: str, bad: Sequence[str], nodes: int, script: Path) -> None:
        self.job, self._script = job, script
        self._before: str | None = None
        self.choice = choose(bad, nodes, self._fits) if bad else Choice()
        if self.choice.kept:
            names = ", ".join(self.choice.kept)
            say(f"{names} is not excluded: the job could not start, or all its nodes failed alike")

    def _fits(self, names: Sequence[str]) -> bool:
        """Whether SLURM would start the job without these; not if it says nothing."""
        if self._before is None:
            show = queue.call("scontrol", "--oneliner", "show", "job", self.job)
            if show is None or show.returncode:
                return True  # no `scontrol` here, as in a container: the user is told
            self._before = already(show.stdout)
        test = queue.call("sbatch", "--test-only", f"--exclude={self._list(names)}",
                          str(self._script))  # fmt: skip
        return test is not None and not test.returncode

    def _list(self, names: Sequence[str]) -> str:
        return ",".join(filter(None, [self._before, *names]))

    def apply(self) -> bool:
        """Set the list of the job, which waits now; returns whether that was possible."""
        names = self.choice.out
        if not names:
            return True
        command = ("scontrol", "update", f"JobId={self.job}", f"ExcNodeList={self._list(names)}")
        done = None if self._before is None else queue.call(*command)
        if done is not None and not done.returncode:
            say(f"{', '.join(names)} is excluded from this job")
            return True
        why = "SLURM does not answer here" if done is None else essence(done.stderr)
        say(f"{', '.join(names)} could not be excluded ({why}); while the job waits, run "
            f"`{' '.join(command)}`, or set exclude in the profile")  # fmt: skip
        return False
