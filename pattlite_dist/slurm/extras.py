"""What a profile passes to sbatch, srun and the shell, and what of it contradicts the profile."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from pattlite_dist.logins import VARIABLE
from pattlite_dist.slurm.profile import Profile, is_secret

# Set by the profile itself: option of sbatch and srun -> why it is not allowed as an extra.
_DRIVEN = {
    "nodes": "profile.nodes sets it",
    **dict.fromkeys(
        ("ntasks", "ntasks-per-node", "ntasks-per-gpu", "ntasks-per-core", "ntasks-per-socket"),
        "profile.nodes and profile.gpus_per_node (or tasks_per_node) set it, one task per GPU",
    ),
    **dict.fromkeys(
        ("gpus", "gpus-per-node", "gpus-per-task", "gpus-per-socket", "cpus-per-gpu", "gres"),
        "profile.gpus_per_node sets it, one number for devices, tasks and GPUs",
    ),
    "cpus-per-task": "profile.cpus_per_task sets it",
    "mem": "profile.memory_gb sets it",
    "time": "profile.time sets it",
    "signal": "profile.signal_seconds sets it",
    **dict.fromkeys(
        ("requeue", "no-requeue"), "the job requeues itself, profile.max_requeues sets how often"
    ),
    "kill-on-bad-exit": "a rank that dies must end the others",
    **dict.fromkeys(("chdir", "output", "error", "open-mode"), "logs are kept in the run folder"),
    "job-name": "the run's name is used",
    **dict.fromkeys(
        ("array", "dependency", "wait", "wrap", "test-only", "parsable"),
        "the command that submits sets it",
    ),
    **{
        key: f"profile.{key} sets it"
        for key in ("partition", "account", "qos", "constraint", "exclude")
    },
}
_SHORT = {
    "A": "account", "C": "constraint", "D": "chdir", "G": "gpus", "J": "job-name",
    "K": "kill-on-bad-exit", "N": "nodes", "a": "array", "c": "cpus-per-task", "d": "dependency",
    "e": "error", "n": "ntasks", "o": "output", "p": "partition", "q": "qos", "t": "time",
    "x": "exclude",
}  # fmt: skip
_LAUNCHER = re.compile(
    r"SLURM_(PROCID|LOCALID|NODEID|NTASKS.*|NPROCS|NNODES|TASKS_PER_NODE|JOB_.*|STEP_.*)"
    r"|TORCHELASTIC_.*|RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE|CUDA_VISIBLE_DEVICES"
)


def options(
    sbatch: Mapping[str, Any], srun: Sequence[str], memory_gb: float | None = None
) -> list[str]:
    """Extra options that contradict what the profile drives.

    Args:
        sbatch: of the profile.
        srun: of the profile.
        memory_gb: of the profile.
    """
    given = [("sbatch", _long(name), value) for name, value in sbatch.items()]
    given += [("srun", *pair) for pair in _srun_options(srun)]
    lines = []
    for command, name, value in given:
        why = _DRIVEN.get(name)
        if name in ("mem-per-cpu", "mem-per-gpu") and memory_gb is not None:
            why = "profile.memory_gb is set, and SLURM accepts only one of them"
        if name == "gres" and "gpu" not in str(value):
            why = None  # a scratch disk, say
        if value is False:
            why = why or "it is false, which sbatch does not accept"
        if why is not None:
            lines.append(f"profile.{command} has {name!r}, but {why}; remove it there")
    return lines


def _long(name: str) -> str:
    bare = name.lstrip("-")
    return _SHORT.get(bare, bare.replace("_", "-"))


def _srun_options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each option's full name, and its value if it has one: in the same word, or the next."""
    for word, after in zip_longest(words, words[1:], fillvalue="-"):
        apart = "" if after.startswith("-") else after
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            yield name, value or apart
        elif re.match(r"-[A-Za-z]", word):
            yield _SHORT.get(word[1], word[1]), word[2:] or apart


def environment(variables: Mapping[str, str]) -> list[str]:
    """Variables that a shell cannot export, or that the launcher sets itself."""
    lines = []
    for name in variables:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            lines.append(f"profile.environment: {name!r} is not a variable name; fix it")
        elif _LAUNCHER.fullmatch(name):
            lines.append(f"profile.environment sets {name}, which SLURM sets itself; remove it")
    return lines


_ASSIGNED = re.compile(r"\b([A-Za-z_][A-Za-z0-9_]*)=(?!['\"]?[$`])['\"]?[^\s'\"]")


def secrets(profile: Profile, known: bool) -> tuple[list[str], list[str]]:
    """Problems with, and notes on, keys and passwords that a profile holds.

    Args:
        profile: of the cluster.
        known: whether the job needs a login of the shards from the environment.
    """
    written = [
        name for line in profile.setup for name in _ASSIGNED.findall(line) if is_secret(name)
    ]
    problems = [
        f"profile.setup sets {name}, and all that can read the run folder can read it there; "
        "export it before submitting"
        for name in written
    ]
    needed = [*profile.secrets, *([VARIABLE] if known else [])]
    export = str(profile.sbatch.get("export", "ALL"))
    kept = [name for name in needed if name not in export.split(",")]
    if kept and export.partition(",")[0].upper() != "ALL":
        problems.append(
            f"profile.sbatch.export is {export!r}, which keeps {', '.join(kept)} from the job; add "
            "it there"
        )
    notes = [
        f"profile.environment holds {name}: anyone who can read the profile can use it; export it "
        "before submitting" + (", or run `wandb login` once" if name == "WANDB_API_KEY" else "")
        for name in profile.secrets
    ]
    return problems, notes
