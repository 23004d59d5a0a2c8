"""From a profile to the text of a job script: parameters in, text out, no side effects."""

import math
import re
import shlex
import sys
from pathlib import Path
from typing import Any

from pattlite_dist.compat.submitit import sbatch_text
from pattlite_dist.errors import UserError
from pattlite_dist.slurm.profile import Profile

_AFTERMATH = "pattlite_dist.slurm.aftermath"
# What would end a line of the script, or cannot be written into it.
_NO_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def parameters(
    profile: Profile,
    name: str,
    folder: Path,
    code: Path | None = None,
    after: str | None = None,
    tasks: int | None = None,
    jobs: Path | None = None,
) -> dict[str, Any]:
    """The parameters for submitit's `SlurmExecutor`.

    Args:
        profile: of the cluster.
        name: of the job.
        folder: where the job starts.
        code: folder of a copy of the package, used instead of what is installed.
        after: id of a job that must succeed first.
        tasks: 1 for work without ranks, and then without a GPU; default: the profile's ranks.
        jobs: folder of submitit's pickles and logs.

    Raises:
        UserError: a value would break the line that it is on.
    """
    alone = tasks == 1
    nodes, each = (range(1, 2), 1) if alone else (profile.node_range, profile.local_size)
    # Of a range of nodes with one task each, sbatch makes one task, and takes one node for it.
    spread = len(nodes) > 1 and each == 1
    extra: dict[str, Any] = {"requeue": True, "chdir": str(folder), **profile.sbatch}
    if len(nodes) > 1:
        extra["nodes"] = profile.nodes  # submitit takes a number, and this instead into the script
    extra = {key: value for key, value in extra.items() if value is not False}
    if after is not None:
        # If the other job fails, this one is removed; otherwise it would wait forever.
        extra = {"kill-on-invalid-dep": "yes", **extra}
    given: dict[str, Any] = {
        "job_name": job_name(name),
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "exclude": profile.exclude,
        "time": profile.minutes,
        "nodes": nodes[0],
        "ntasks_per_node": None if spread else each,
        "gpus_per_node": None if alone else profile.gpus_per_node or None,
        "cpus_per_task": profile.cpus_per_task,
        "mem": None if profile.memory_gb is None else f"{math.ceil(profile.memory_gb * 1024)}MB",
        "signal_delay_s": profile.signal_seconds,
        "dependency": None if after is None else f"afterok:{after}",
        "array_parallelism": profile.array_parallelism,
        "wckey": None,
        "stderr_to_stdout": True,
        "setup": [*(first_lines(profile, jobs) if jobs else []), *setup_lines(profile, code)],
        "additional_parameters": extra,
        "srun_args": [
            # A rank that dies ends the others at once, or they would wait for it.
            "--kill-on-bad-exit=1",
            # Since SLURM 22.05 srun does not inherit it from sbatch.
            f"--cpus-per-task={profile.cpus_per_task}",
            *(["--ntasks-per-node=1"] if spread else []),
            *profile.srun,
        ],
    }
    for key, value in {**given, **extra}.items():
        check_line(key.replace("_", "-"), value)
    return {key: value for key, value in given.items() if value is not None or key == "wckey"}


def job_name(text: str) -> str:
    """A valid name of a job, made of any file's name."""
    return _NO_TEXT.sub("-", text)


def check_line(what: str, value: Any) -> None:
    """Reject a value that cannot be part of a line of the script.

    Raises:
        UserError: it has a line break; the message names `what` it is for.
    """
    if isinstance(value, str) and re.search(r"[\n\r\0]", value):
        raise UserError(f"{what} {value!r} has a line break, which sbatch cannot read; remove it")


def check_folder(folder: Path) -> None:
    """Reject a folder of logs whose name sbatch would change.

    Raises:
        UserError: it has a line break, or what sbatch takes for a pattern, such as `%j`.
    """
    what = "folder of logs"
    check_line(what, str(folder))
    if re.search(r"[%\\]", str(folder)):
        raise UserError(
            f"{what} {str(folder)!r} has a % or a backslash, of which sbatch would make another "
            "name; choose one without"
        )


def setup_lines(profile: Profile, code: Path | None = None) -> list[str]:
    """Shell lines before srun: modules, variables, the copied code, the profile's own."""
    lines = [f"module load {shlex.quote(module)}" for module in profile.modules]
    variables = {"OMP_NUM_THREADS": str(profile.cpus_per_task), **profile.environment}
    for name in profile.secrets:  # others can read the script
        del variables[name]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    if code is not None:
        lines.append(f'export PYTHONPATH={shlex.quote(str(code))}"${{PYTHONPATH:+:$PYTHONPATH}}"')
    return lines + profile.setup


def first_lines(profile: Profile, jobs: Path) -> list[str]:
    """Shell lines with which a script begins, so that no signal ends it before it knows what for.

    Bash notes a signal and waits for srun, which passes it on; at the end, `aftermath` decides.
    Nothing of the kind happens to a job that has ended well.

    Args:
        profile: of the cluster.
        jobs: folder of submitit's pickles and logs.
    """
    signals = "TERM INT USR1 USR2"
    ask = f"{interpreter(profile)} -m {_AFTERMATH} {shlex.quote(str(jobs))} $status"
    return [
        f"trap : {signals}",
        f"trap 'status=$?; trap \"\" {signals}; ((status)) || exit 0; pattlite_end' EXIT",
        f"pattlite_end() {{ {ask}; exit $?; }}",
        'echo "pattlite: begins on $SLURM_JOB_NODELIST"',
    ]


def interpreter(profile: Profile) -> str:
    """The command that starts Python in the job."""
    python = shlex.quote(profile.python or sys.executable)
    return f"{profile.container} {python}" if profile.container else python


def script_text(given: dict[str, Any], python: str, folder: Path, array: int | None = None) -> str:
    """The exact text that submitit hands to sbatch.

    Args:
        given: from `parameters`.
        python: from `interpreter`.
        folder: of submitit's pickles and logs.
        array: number of jobs, if it is an array.
    """
    return sbatch_text(python, shlex.quote(str(folder)), folder, array, given)
