"""`pattlite --version -v`: what is installed here; nothing of it is imported."""

import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib import metadata, util
from pathlib import Path

from pattlite_dist import __version__
from pattlite_dist.runtime.limits import cores

# As PyPI names them.
LIBRARIES = (
    "torch", "torchvision", "pytorch-lightning", "webdataset", "submitit", "wandb", "numpy",
    "pillow", "pydantic", "jsonargparse", "fsspec", "opencv-python-headless", "onnxruntime",
)  # fmt: skip
_PATIENCE = 10.0  # seconds to wait for a silent command


def versions() -> Iterator[tuple[str, str]]:
    """Name and version of everything that decides what a run does."""
    yield "pattlite_dist", __version__
    yield "Python", f"{platform.python_version()} ({platform.python_implementation()})"
    for name in LIBRARIES:
        yield name, _installed(name)
    yield "CUDA", _cuda()
    yield "GPUs", _said("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    yield "OS", _system()
    yield "CPU cores", str(cores())
    yield "SLURM", _said("sinfo", "--version").removeprefix("slurm ")


def lines() -> Iterator[str]:
    """The same, a line each."""
    for name, version in versions():
        yield f"{name:24}{version}"


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _cuda() -> str:
    """What PyTorch was built for, read from a file of it: importing it takes seconds."""
    spec = util.find_spec("torch")
    if spec is None or spec.origin is None:
        return "not known, without torch"
    try:
        text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return "not known"
    found = re.findall(r"^(cuda|hip)\b.*= '([^']+)'", text, re.MULTILINE)
    return ", ".join(f"{name} {version}" for name, version in found) or "none: a build for CPUs"


def _system() -> str:
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        name = ""
    return ", ".join(filter(None, [name, platform.platform()]))


def _said(*command: str) -> str:
    """What a program says, in one line."""
    if shutil.which(command[0]) is None:
        return f"none: {command[0]} is not installed"
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=_PATIENCE, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"not known: {command[0]}: {type(error).__name__}"
    rows = [line.strip() for line in (done.stdout or done.stderr).splitlines() if line.strip()]
    if done.returncode:
        return f"not known: {rows[0] if rows else command[0]}"
    return "; ".join(rows)
