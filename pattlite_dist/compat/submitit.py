"""submitit's sbatch script, the command its jobs run, and how they requeue themselves."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pattlite_dist.compat.need import changed, find_function

_NAME = "submitit"
_MODULE = "submitit.core._submit"
_TEXT = "_make_sbatch_string"
_ARGUMENTS = (
    "command", "folder", "map_count", "job_name", "partition", "account", "qos", "constraint",
    "exclude", "time", "nodes", "ntasks_per_node", "gpus_per_node", "cpus_per_task", "mem",
    "signal_delay_s", "dependency", "array_parallelism", "wckey", "stderr_to_stdout", "setup",
    "additional_parameters", "srun_args",
)  # fmt: skip


def check() -> None:
    """Check that everything a submission and its job use exists, before anything is queued.

    Raises:
        UserError: it does not; names the installed and the supported versions.
    """
    _text_maker()
    if find_spec(_MODULE) is None:
        raise changed(_NAME, f"module `{_MODULE}`")
    from submitit.core import job_environment

    find_function(_NAME, job_environment, "JobEnvironment._requeue", ("countdown",))
    handler = find_function(
        _NAME, job_environment, "SignalHandler.checkpoint_and_try_requeue", ("signum", "frame")
    )
    if "_requeue" not in handler.__code__.co_names:  # replacing it would have no effect
        raise changed(_NAME, "`SignalHandler.checkpoint_and_try_requeue` that calls `env._requeue`")


def _text_maker() -> Callable[..., str]:
    import submitit.slurm.slurm

    return find_function(_NAME, submitit.slurm.slurm, _TEXT, _ARGUMENTS)


def sbatch_text(
    python: str, quoted_folder: str, folder: Path, array: int | None, given: dict[str, Any]
) -> str:
    """The exact script that submitit passes to sbatch.

    Args:
        python: shell words of the interpreter.
        quoted_folder: `folder`, quoted for a shell.
        folder: of submitit's pickles and logs.
        array: number of jobs, if it is an array.
        given: parameters of `SlurmExecutor`.
    """
    command = f"{python} -u -m {_MODULE} {quoted_folder}"
    return _text_maker()(command=command, folder=folder, map_count=array, **given)


def check_handler(handler: Any) -> None:
    """Check that `requeue_by` can change a job's signal handler.

    Args:
        handler: installed by submitit; anything that is not callable is not one, and is accepted.

    Raises:
        UserError: the handler has an unexpected structure.
    """
    if callable(handler):
        find_function(_NAME, handler, "__self__.env._requeue")


def requeue_by(handler: Any, requeue: Callable[[int], object]) -> None:
    """Make submitit's signal handler requeue the job by a function instead of scontrol.

    Args:
        handler: installed by submitit.
        requeue: called with the number of timeouts left.
    """
    check_handler(handler)
    handler.__self__.env._requeue = requeue
