"""What can be wrong with a job, derived from plain facts: one line per problem, with its fix.

Nothing here looks at a disk, a cluster or the clock; `doctor` gathers the facts.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pattlite_dist.location import no_weights

START_SECONDS = 120  # from a job's start to its first step: imports, the shards, the other ranks
# SLURM checks time limits every 30 s and signals up to 60 s earlier than requested.
EARLY_SECONDS = 90
CHECKPOINT_BYTES = 100_000_000  # if there is no checkpoint to measure
_SHOWN = 5


@dataclass
class Report:
    """What a check found.

    Attributes:
        problems: lines; with any of them the job would fail, wait forever, or lose work.
        notes: lines about what could not be checked, or is good to know.
    """

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, other: "Report") -> None:
        """Append another report's lines."""
        self.problems += other.problems
        self.notes += other.notes


def shorten(lines: Sequence[str], what: str) -> list[str]:
    """The first few lines, and how many more `what` there are."""
    more = len(lines) - _SHOWN
    return [*lines[:_SHOWN], *([f"… and {more} more {what}"] if more > 0 else [])]


def merged(reports: Mapping[str, Report]) -> Report:
    """The reports of several runs as one: each line once, after the names of the runs it is about.

    A line about all of them has no names.

    Args:
        reports: by the names of the runs.
    """

    def lines(kind: str) -> list[str]:
        names: dict[str, list[str]] = {}
        for name, report in reports.items():
            for line in dict.fromkeys(getattr(report, kind)):
                names.setdefault(line, []).append(name)
        return [
            line if len(having) == len(reports) else f"{', '.join(shorten(having, 'runs'))}: {line}"
            for line, having in names.items()
        ]

    return Report(lines("problems"), lines("notes"))


def splits(where: str, samples: Mapping[str, int], global_batch: int, tail: str) -> list[str]:
    """Whether a shard set can be trained on.

    Args:
        where: location of the shards.
        samples: number of each split.
        global_batch: samples of a step.
        tail: `pad`, `wrap` or `drop`, of the configuration.
    """
    lines = []
    train = samples.get("train", 0)
    if not train:
        lines.append(f"{where} has no train split; create the shards again")
    elif train < global_batch and tail == "drop":
        lines.append(
            f"{train} training samples in {where} do not fill one global batch of {global_batch}; "
            "lower trainer.global_batch or set data.tail to pad"
        )
    if not samples.get("val", 0):
        lines.append(f"{where} has no val split to choose a checkpoint on; create one with it")
    return lines


def batch(global_batch: int, nodes: range, local_size: int) -> list[str]:
    """Whether the ranks can share a step's samples evenly, however many nodes there are.

    Args:
        global_batch: samples of a step.
        nodes: the numbers of nodes that the job may get.
        local_size: ranks of a node.
    """
    unfit = [count * local_size for count in nodes if global_batch % (count * local_size)]
    if not unfit:
        return []
    every = math.lcm(*nodes) * local_size
    below = global_batch // every * every
    fit = [str(number) for number in (below, below + every) if number]
    fewer = max(number for number in range(1, unfit[0]) if global_batch % number == 0)
    span = f"{nodes[0]}-{nodes[-1]}" if len(nodes) > 1 else nodes[0]
    return [
        f"trainer.global_batch {global_batch} cannot be shared by {' or '.join(map(str, unfit))} "
        f"ranks (profile.nodes {span} of {local_size}); set it to {' or '.join(fit)}, or use "
        f"{fewer} rank(s)"
    ]


def devices(accelerator: str, gpus_per_node: int) -> list[str]:
    """Whether training uses the devices that the profile asks for."""
    if accelerator == "gpu" and not gpus_per_node:
        return [
            "trainer.accelerator is gpu, but profile.gpus_per_node is 0; set it to the GPUs of a "
            "node, or trainer.accelerator to cpu"
        ]
    if accelerator == "cpu" and gpus_per_node:
        return [
            f"trainer.accelerator is cpu, but profile.gpus_per_node is {gpus_per_node}: GPUs would "
            "idle; set it to 0 and use profile.tasks_per_node, or trainer.accelerator to auto"
        ]
    return []


def times(
    minutes: int, signal_seconds: int, every_minutes: float = 0, save_seconds: float | None = None
) -> Report:
    """Whether a start makes progress before it is stopped, and a stop has time to save.

    Args:
        minutes: time limit.
        signal_seconds: how long before it the job is signalled.
        every_minutes: between checkpoints; 0: none based on time.
        save_seconds: how long a checkpoint took, if one was ever saved.
    """
    report = Report()
    least = START_SECONDS + signal_seconds + EARLY_SECONDS
    if 60 * minutes <= least:
        report.problems.append(
            f"profile.time is {minutes} min, but start-up ({START_SECONDS} s), "
            f"profile.signal_seconds ({signal_seconds} s) and the time by which SLURM may be early "
            f"({EARLY_SECONDS} s) take {least} s: it would restart forever; "
            f"set it to {least // 60 + 1} or more"
        )
    if save_seconds is not None and signal_seconds <= save_seconds:
        report.problems.append(
            f"profile.signal_seconds is {signal_seconds}, but a checkpoint of this run took "
            f"{save_seconds:.1f} s; set it to {int(2 * save_seconds) + 30} or more"
        )
    if every_minutes >= minutes:
        report.notes.append(
            f"trainer.checkpoint_every_minutes {every_minutes:g} is not below profile.time "
            f"({minutes} min): a job killed without a warning starts over at its last epoch"
        )
    return report


def wandb(mode: str, login: bool) -> list[str]:
    """Whether Weights & Biases can be used in this mode: online, offline or disabled."""
    if mode != "online" or login:
        return []
    return [
        "wandb.mode is online without a login; run `wandb login`, or set wandb.mode to offline "
        "and upload later with `pattlite sync`"
    ]


def weights(wanted: str | None, exists: bool) -> list[str]:
    """Whether the weights to begin with exist, if they are a file or a folder."""
    if wanted in (None, "imagenet") or exists:
        return []
    return [no_weights("model.weights", str(wanted))]


def disk(folder: Path, free: int, keep_best: int, checkpoint: int | None = None) -> list[str]:
    """Whether there is room for the checkpoints of a run.

    Args:
        folder: on the disk in question.
        free: bytes.
        keep_best: of the configuration.
        checkpoint: bytes of one; None: not known.
    """
    # The two newest are kept as well, and a new one is complete before an old one is removed.
    count = keep_best + 3
    size = checkpoint or CHECKPOINT_BYTES
    if free >= count * size:
        return []
    return [
        f"{folder} has {free / 1e6:,.0f} MB free, but {count} checkpoints of {size / 1e6:,.0f} MB "
        "have to fit; free some space, or set runs to a folder on a larger disk"
    ]


def jobs(run: Path, live: Sequence[str]) -> list[str]:
    """Whether the run has no other job."""
    if not live:
        return []
    return [
        f"{run} already has job {', '.join(live)} queued or running; wait for it to end, "
        f"`pattlite cancel {run}`, or set name to start another run"
    ]
