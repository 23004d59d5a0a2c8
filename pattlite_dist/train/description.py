"""What a run computes on and with: for its first line, its history, and to compare two starts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from pattlite_dist import __version__
from pattlite_dist.config import Config
from pattlite_dist.runtime import devices
from pattlite_dist.runtime import world as worlds
from pattlite_dist.runtime.world import World
from pattlite_dist.tracking.folder import run_folder
from pattlite_dist.tracking.history import append, last_start, read
from pattlite_dist.train.checks import remarks
from pattlite_dist.train.pieces import few_images, pieces_of
from pattlite_dist.train.trainer import emulates_bf16, precision

# In the order in which their changes are told.
FACTS = (
    "device", "precision", "channels_last", "compile", "deterministic", "accumulate", "versions",
    "ranks",
)  # fmt: skip


@dataclass(frozen=True)
class Description:
    """How one start of a run computes.

    Attributes:
        device: the GPU's name, or CPU.
        precision: 32 or bf16.
        channels_last: whether the network's tensors are.
        compile: whether the network is compiled, or how.
        versions: of the libraries that compute, by name.
        ranks: number of processes.
        remarks: about the device and the precision.
        visible: GPUs that a process without a launcher could have used.
        deterministic: whether GPUs use only deterministic kernels.
        accumulate: pieces in which a rank computes its share of a global batch.
    """

    device: str
    precision: str
    channels_last: bool
    compile: bool | str
    versions: Mapping[str, str]
    ranks: int
    remarks: tuple[str, ...] = ()
    visible: int = 0
    deterministic: bool = True
    accumulate: int = 1

    def facts(self) -> dict[str, Any]:
        """What the history keeps."""
        return {
            "device": self.device,
            "precision": self.precision,
            "channels_last": self.channels_last,
            "compile": self.compile,
            "deterministic": self.deterministic,
            "accumulate": self.accumulate,
            "versions": dict(self.versions),
            "ranks": self.ranks,
        }

    def line(self, steps: int) -> str:
        """The end of the run's first line.

        Args:
            steps: per epoch.
        """
        words = "32 bit" if self.precision == "32" else self.precision
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        remarks = "".join(f"; {remark}" for remark in self.remarks)
        return (
            f"{self.ranks} rank(s) on {self.device} in {words}, {steps} steps per epoch; "
            f"{versions}{remarks}"
        )

    def hint(self) -> str | None:
        """How to use the GPUs that this run leaves idle; None if there are none."""
        if self.visible < 2:
            return None
        return (
            f"uses one of {self.visible} GPUs; to use all, stop it and start "
            "`launch/torchrun.sh train …` (NPROC=2 for two of them)"
        )


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between the facts of two starts, each as in `precision bf16, now 32`.

    Only what both have is compared: earlier versions kept less.
    """
    old, new = _flat(before), _flat(now)
    return [
        f"{name} {old[name]}, now {value}"
        for name, value in new.items()
        if old.get(name, value) != value
    ]


def _flat(facts: Mapping[str, Any]) -> dict[str, str]:
    flat: dict[str, str] = {}
    for name in FACTS:
        value = facts.get(name)
        if isinstance(value, Mapping):
            flat.update((str(key), str(version)) for key, version in value.items())
        elif value is not None:
            flat[name] = str(value).lower() if isinstance(value, bool) else str(value)
    return flat


def describe(config: Config, world: World) -> Description:
    """Describe this start, as it is about to compute.

    Raises:
        UserError: there is no GPU for this process, though there should be.
    """
    settings = config.trainer
    device = worlds.device(world, settings.accelerator)
    gpu = device.type == "cuda"
    name = "bf16" if precision(config, gpu).startswith("bf16") else "32"
    remarks = []
    if gpu and name == "bf16" and emulates_bf16():
        remarks.append("this GPU only emulates bf16, precision=32 may be faster")
    if not gpu and (other := devices.unsupported()) is not None:
        remarks.append(f"the {other} here is not supported")
    return Description(
        device=torch.cuda.get_device_name(device) if gpu else "CPU",
        precision=name,
        channels_last=settings.channels_last,
        compile=settings.compile,
        deterministic=settings.deterministic,
        accumulate=pieces_of(settings, world.size),
        versions=_versions(),
        ranks=world.size,
        remarks=tuple(remarks),
        visible=devices.count() if gpu and world.launcher == "none" else 0,
    )


def _versions() -> dict[str, str]:
    found = {
        "torch": torch.__version__,
        "CUDA": torch.version.cuda,
        "ROCm": torch.version.hip,
        "Lightning": pl.__version__,
        "pattlite_dist": __version__,
    }
    return {name: str(version) for name, version in found.items() if version is not None}


def announce(
    config: Config,
    world: World,
    found: Path | None,
    step: int,
    steps: int,
    said: Sequence[str | None] = (),
    shards: str | None = None,
    nodes: Sequence[str] = (),
) -> None:
    """Print what starts, on what, and what changed since the previous start; add to the history.

    Args:
        config: of the run.
        world: which rank this is.
        found: the checkpoint that it continues from, if any.
        step: of that checkpoint.
        steps: per epoch.
        said: what else there is to say, of the weights that the run began with and of its recipe.
        shards: their fingerprint.
        nodes: names of the machines, in the order of their ranks.
    """
    run, now = run_folder(config), describe(config, world)
    start = f"continues from {found.name}" if found else "starts"
    lines = [f"{start}; {now.line(steps)}"]
    before = last_start(read(run)) if found else {}
    if changed := differences(before, now.facts()):
        lines.append(f"changed since the previous start: {'; '.join(changed)}")
    lines += [line for line in said if line]
    lines += [] if found else remarks(config, steps)
    if (hint := now.hint()) is not None:
        lines.append(hint)
    if (few := few_images(config.trainer, world.size, config.model.sync_batchnorm)) is not None:
        lines.append(few)
    print("\n".join(f"{run}: {line}" for line in lines), flush=True)
    append(run, "started", step=step, steps_per_epoch=steps, epochs=config.trainer.epochs,
           shards=shards, nodes=list(nodes), **now.facts())  # fmt: skip
