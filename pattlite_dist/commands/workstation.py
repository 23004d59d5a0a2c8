"""`pattlite doctor` without a profile: what would stop a run on this machine."""

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from pattlite_dist.config import Config
from pattlite_dist.data.fetch import fetch_manifest
from pattlite_dist.data.trust import default_cache
from pattlite_dist.errors import UserError
from pattlite_dist.runtime import devices, limits, network
from pattlite_dist.runtime.home import instead_of_home
from pattlite_dist.runtime.imports import quick_imports
from pattlite_dist.shards.manifest import Manifest
from pattlite_dist.slurm import checks, doctor
from pattlite_dist.tracking.folder import run_folder
from pattlite_dist.tracking.wandb_run import wandb_mode
from pattlite_dist.tracking.wandb_server import has_login

State = Literal["ok", "warning", "failed"]
SHARED = Path("/dev/shm")
_LITTLE = 512_000_000  # bytes of shared memory; a container has 64 MB unless told otherwise


class Finding(NamedTuple):
    """What was found out about one thing, in one line."""

    state: State
    what: str
    text: str


def examine(config: Config, named: bool) -> Iterator[Finding]:
    """Look at everything that a run needs of this machine.

    Args:
        config: of the run.
        named: whether its shards were named; else they are left out.
    """
    yield host_name()
    yield (gpus := devices_here(config.trainer.accelerator))
    manifest: Manifest | None = None
    if named:
        problems = doctor.shard_problems(doctor.fetched, config.data, config.trainer.global_batch)
        if not problems:
            manifest = fetch_manifest(doctor.quick_origin(config.data))
        yield shards(config, manifest, problems)
        if gpus.state == "ok":
            yield batch(config, devices.count())
        yield from (
            Finding("failed", "weights", line)
            for line in doctor.weight_problems(config, run_folder(config))
        )
    yield disk(config)
    yield cache(config, manifest)
    yield shared_memory(SHARED)
    yield from home(instead_of_home())
    yield login(config)


def host_name() -> Finding:
    """Whether the name of this machine means an address."""
    name = socket.gethostname()
    found = network.source_of(name)
    if found is None:
        cure = f"add `127.0.1.1 {name}` to /etc/hosts"
        text = f"{name} has no address: plain torchrun, and runs on several machines, may hang"
        return Finding("warning", "host name", f"{text}; {cure}")
    return Finding("ok", "host name", f"{name} is {found}")


def devices_here(accelerator: str) -> Finding:
    """What a run would compute on."""
    with quick_imports():
        import torch
    try:
        used = devices.use_gpu(accelerator)
    except UserError as error:
        return Finding("failed", "GPUs", str(error))
    cores = limits.cores()
    on_cores = f"training would use {cores} CPU cores"
    if used:
        names = [torch.cuda.get_device_name(number) for number in range(devices.count())]
        return Finding("ok", "GPUs", f"{len(names)}: {', '.join(dict.fromkeys(names))}")
    if accelerator == "cpu":
        return Finding("ok", "GPUs", f"not used, as trainer.accelerator is cpu; {on_cores}")
    other = devices.unsupported()
    if other is not None:
        return Finding("warning", "GPUs", f"{other} is not supported; {on_cores}")
    return Finding("warning", "GPUs", f"none, with torch {torch.__version__}; {on_cores}")


def shards(config: Config, manifest: Manifest | None, problems: list[str]) -> Finding:
    """Whether the shards are there, and whole as far as their sizes tell."""
    if manifest is None:
        return Finding("failed", "shards", "; ".join(problems))
    samples = sum(map(manifest.samples, manifest.shards))
    return Finding("ok", "shards", f"{config.data.shards}: {samples:,} samples")


def batch(config: Config, processes: int) -> Finding:
    """Whether a process for each GPU can share a step's samples."""
    size = config.trainer.global_batch
    if size % processes == 0:
        return Finding("ok", "batch", f"{size} samples, {size // processes} for each GPU")
    most = max(number for number in range(1, processes) if size % number == 0)
    text = f"trainer.global_batch {size} cannot be shared by {processes} GPUs"
    return Finding(
        "failed", "batch", f"{text}; set it to a multiple of {processes}, or NPROC={most}"
    )


def disk(config: Config) -> Finding:
    """Whether checkpoints can be written, and fit."""
    run = run_folder(config)
    folder = doctor.nearest(run)
    with doctor.mark(folder) as (problems, _):
        pass
    free = shutil.disk_usage(folder).free
    problems += doctor.disk_problems(config, run, folder)
    if problems:
        return Finding("failed", "disk", problems[0])
    return Finding("ok", "disk", f"{folder}: {_size(free)} free for checkpoints")


def cache(config: Config, manifest: Manifest | None) -> Finding:
    """Whether the decoded shards fit."""
    try:
        folder = default_cache() if config.data.cache is None else Path(config.data.cache)
    except UserError as error:
        return Finding("failed", "cache", str(error))
    place = doctor.nearest(folder)
    with doctor.mark(place) as (problems, _):
        pass
    if problems:
        return Finding("failed", "cache", f"cannot write into {place}; set data.cache")
    free = shutil.disk_usage(place).free
    free = min(free, limits.share_of_memory(place) or free)
    needed = 0
    if manifest is not None:
        image = manifest.image
        samples = sum(map(manifest.samples, manifest.shards))
        needed = samples * image.width * image.height * image.channels
    if free < needed:
        text = f"{folder}: {_size(free)} free, and {_size(needed)} of decoded shards"
        return Finding("failed", "cache", f"{text}; free some space, or set data.cache")
    return Finding("ok", "cache", f"{folder}: {_size(free)} free for decoded shards")


def shared_memory(folder: Path) -> Finding:
    """Whether NCCL, and the locks of loader processes, have enough of it."""
    cure = "may fail; in a container, start it with --shm-size=2g, or --ipc=host"
    try:
        size = shutil.disk_usage(folder).total
    except OSError:
        text = f"does not exist: NCCL and loader processes (data.workers) use it and {cure}"
        return Finding("warning", str(folder), text)
    if size < _LITTLE:
        return Finding("warning", str(folder), f"has only {_size(size)}: NCCL uses it and {cure}")
    return Finding("ok", str(folder), _size(size))


def home(instead: Path | None) -> Iterator[Finding]:
    """Where libraries keep their files, if the home folder is not the place."""
    if instead is not None:
        text = f"none that can be written into: libraries keep their files in {instead}"
        yield Finding("warning", "home", f"{text}; set HOME, or TMPDIR, to choose another folder")


def login(config: Config) -> Finding:
    """Whether Weights & Biases can be used as configured."""
    mode = wandb_mode(config.wandb.mode)
    problems = checks.wandb(mode, has_login())
    if problems:
        return Finding("failed", "W&B", problems[0])
    if mode == "offline" and config.wandb.mode == "auto" and not has_login():
        text = "not logged in: runs are kept offline, and `pattlite sync` uploads them"
        return Finding("warning", "W&B", f"{text}; run `wandb login` to follow them online")
    return Finding("ok", "W&B", mode)


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"
