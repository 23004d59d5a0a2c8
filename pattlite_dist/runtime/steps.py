"""Whether a process is a task of srun, from what SLURM sets."""

import os
from collections.abc import Mapping

# SLURM gives numbers from here on to what is no step of srun: the shell of salloc, the batch script
# and so on. 0xfffffffa is the shell's.
_NO_STEPS = 0xFFFFFFF0


def is_task(env: Mapping[str, str]) -> bool:
    """Whether this process is one of those that srun started together.

    SLURM_PROCID does not say it, nor does the name of the job: batch scripts and the shells of
    salloc have both, and only one process runs in them.
    """
    step = env.get("SLURM_STEP_ID", "")
    return step.isdecimal() and int(step) < _NO_STEPS and not _typed(env)


def _typed(env: Mapping[str, str]) -> bool:
    """Whether the command was typed into a shell that `srun --pty` started.

    A command that srun started there has the shell's variables, but not its terminal; one that
    `srun --pty` itself started is the task.
    """
    if "SLURM_PTY_PORT" not in env or env.get("SLURM_TASK_PID") == str(os.getpid()):
        return False
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
