"""The GPUs that torch sees here, and those that a process was given but cannot use.

`python -m pattlite_dist.runtime.devices N` prints how many processes to start on this machine: one
for each GPU, or N if there is none.
"""

import os
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from pattlite_dist.errors import UserError
from pattlite_dist.runtime.imports import quick_imports

# CUDA's variable and ROCm's, which reads CUDA's as well. An empty list, or one that does not begin
# with a device, such as `-1`, hides all GPUs.
VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
_DEVICE = re.compile(r"\s*(\d|GPU-|MIG-)")
_LISTS = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS")
_NUMBER = "SLURM_GPUS_ON_NODE"


def count() -> int:
    """How many GPUs this process can use."""
    import torch

    with warnings.catch_warnings():
        # What is wrong with the driver is part of the error, if it is one.
        warnings.filterwarnings("ignore", ".*CUDA initialization")
        if not torch.cuda.is_available():
            return 0
    # Before that, torch counts what the driver lists: of GPUs split by MIG, CUDA shows only one.
    torch.cuda.init()  # type: ignore[no-untyped-call]
    return torch.cuda.device_count()


def given(env: Mapping[str, str] = os.environ, devices: Path = Path("/dev")) -> str | None:
    """What gave GPUs to this process, such as `SLURM_GPUS_ON_NODE=2`; None if nothing did.

    Variables that hide all GPUs hide them on purpose. A job has those that SLURM says it has,
    whatever there are on its node; elsewhere the variables say it, or else device files that this
    process may open.

    Args:
        env: environment.
        devices: folder of device files.
    """
    shown = {name: env[name] for name in VISIBLE if name in env}
    if any(not _DEVICE.match(value) for value in shown.values()):
        return None
    if "SLURM_JOB_ID" in env:
        if env.get(_NUMBER, "0") != "0":
            return f"{_NUMBER}={env[_NUMBER]}"
        # In a CPU job that was submitted from a job with GPUs, SLURM removes that number and
        # CUDA's list, but leaves its own lists. Old versions have no number.
        found = {name: env[name] for name in _LISTS if env.get(name) and shown}
    else:
        found = shown
        if not shown:
            files = sorted(devices.glob("nvidia[0-9]*"))
            return next((str(path) for path in files if os.access(path, os.R_OK | os.W_OK)), None)
    return next((f"{name}={value}" for name, value in found.items()), None)


def use_gpu(accelerator: str) -> bool:
    """Whether to compute on GPUs.

    Raises:
        UserError: torch sees no GPU, but `gpu` was requested, or is `auto` and some were given.
    """
    if accelerator == "cpu":
        return False
    if count():
        return True
    if accelerator == "gpu":
        raise UserError(
            "trainer.accelerator is gpu, but torch sees no GPU here; use cpu or auto, "
            "or check the driver with nvidia-smi"
        )
    by = given()
    if by is not None and unsupported() is None:
        raise UserError(
            f"there are GPUs ({by}), but torch sees none: {_reason()}; fix that, or compute on the "
            "CPU with trainer.accelerator=cpu (evaluate and audit: --accelerator cpu)"
        )
    return False


def _reason() -> str:
    """Why torch sees no GPU."""
    import torch

    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} is built for CPUs only"
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (AssertionError, RuntimeError) as error:
        return re.split(r"\.(?=\s+[A-Z])|\n", str(error).strip())[0].rstrip(".")
    return "its driver lists none"


def unsupported() -> str | None:
    """The accelerator here that torch can use but this package cannot."""
    import torch

    if torch.xpu.is_available():
        return "XPU"
    return "MPS" if torch.backends.mps.is_available() else None


def own(local_rank: int, local_size: int, bound: bool, env: Mapping[str, str] = os.environ) -> int:
    """The number of a process's own GPU, among those that it sees.

    Args:
        local_rank: of the process on its node.
        local_size: processes of the node.
        bound: whether the launcher may show each process only its own GPU, then as number 0.
        env: environment.

    Raises:
        UserError: there are more processes than GPUs on this node; the same error on each of them.
    """
    visible = count()
    if visible >= local_size:
        return local_rank
    slices = any(env.get(name, "").count("MIG-") > 1 for name in VISIBLE)
    if bound and visible == 1 and not slices and _of_the_node(env, local_size) >= local_size:
        return 0
    why = " (CUDA shows a process only one MIG slice)" if slices else ""
    raise UserError(
        f"{local_size} processes were started on this node, but torch sees {visible} GPU(s){why}; "
        "start one process per GPU"
    )


def _of_the_node(env: Mapping[str, str], unknown: int) -> int:
    """How many GPUs all tasks of a SLURM job have on this node together."""
    number = env.get(_NUMBER, "")
    return int(number) if number.isdigit() else unknown


def main(arguments: Sequence[str] | None = None) -> int:
    """Print how many processes to start; the argument is how many without a GPU."""
    (without,) = sys.argv[1:] if arguments is None else arguments
    with quick_imports():
        print(count() or int(without))
    return 0


if __name__ == "__main__":
    sys.exit(main())
