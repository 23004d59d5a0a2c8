"""Shared fixtures."""

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
import torch

from pattlite_dist.shards.create import create_shards
from pattlite_dist.shards.faces import write_faces
from pattlite_dist.shards.manifest import Options
from pattlite_dist.shards.sources.registry import open_source
from tests.warm import client
from tests.workers import Workers

if TYPE_CHECKING:
    from tests.starts import Zygote

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "tests" / "tiny.yaml"
Run = Callable[..., "subprocess.CompletedProcess[str]"]

# A busy machine must not fail a test.
hypothesis.settings.register_profile("pattlite", deadline=None)
hypothesis.settings.load_profile("pattlite")

# Ranks and test workers share a few cores: more threads would only compete with each other.
torch.set_num_threads(1)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Workers(), "workers")


def pytest_collection_finish() -> None:
    gc.freeze()  # a million objects that stay; each search for garbage would go over them


@pytest.fixture(scope="session")
def faces_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small fer2013.csv of generated faces."""
    path = tmp_path_factory.mktemp("faces") / "fer2013.csv"
    write_faces(path, train=106, val=37, test=41)
    return path


@pytest.fixture(scope="session")
def face_shards(faces_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of the small set: 104 train samples after the blanks, in four shards."""
    folder = tmp_path_factory.mktemp("shards") / "faces"
    options = Options(blanks="drop")
    create_shards(open_source(faces_csv), folder, samples_per_shard=32, options=options)
    return folder


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    # Tests keep decoded shards where pytest cleans up.
    os.environ["SLURM_TMPDIR"] = str(tmp_path_factory.mktemp("cache"))


def command(arguments: Sequence[str], ranks: int = 1) -> list[str]:
    """`pattlite …`, under torchrun if there is more than one rank."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    return [sys.executable, *(launcher if ranks > 1 else []), "-m", "pattlite_dist", *arguments]


def environment(**extra: str) -> dict[str, str]:
    """For a process that uses this package; bytecode is cached, as there are hundreds of them."""
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": ""}
    return {**os.environ, **own, **extra}


def on_small_disk(folder: Path, code: str, *flags: str) -> "subprocess.CompletedProcess[str]":
    """Run Python code with `folder` as its only argument, mounted as a disk of 64 KiB."""
    mount = f'mount -t tmpfs -o size=64k tmpfs {folder} && exec "$@"'
    return subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh",
         sys.executable, *flags, "-c", code, str(folder)],
        env=environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.fixture
def pattlite(tmp_path: Path) -> Run:
    """Run the command line in a separate process, in the test's folder."""

    def run(*arguments: str, ranks: int = 1, **extra: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command(arguments, ranks),
            cwd=tmp_path, env=environment(**extra), capture_output=True, text=True, timeout=300,
            check=False,
        )  # fmt: skip

    return run


@pytest.fixture(scope="session")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Zygote"]:
    """Starts the command line without the cost of its imports."""
    from tests.starts import Zygote

    zygote = Zygote(tmp_path_factory.mktemp("zygote"), environment())
    yield zygote
    zygote.close()


@pytest.fixture
def small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, networks are such as `Zygote.with_small_networks` trains."""
    from pattlite_dist.model import build
    from tests.train.small_network import TwoBlocks

    monkeypatch.setattr(build, "MobileNetV2", TwoBlocks)


@pytest.fixture
def forked(zygote: "Zygote", tmp_path: Path) -> Run:
    """Like `pattlite`, but forked: for tests of what a process does once it has started."""

    def run(*arguments: str, ranks: int = 1, **extra: str) -> "subprocess.CompletedProcess[str]":
        start = zygote.start(
            arguments, ranks, env=environment(**extra), cwd=tmp_path, agent=ranks > 1
        )
        failed = [status for status in start.statuses if status]
        return subprocess.CompletedProcess(
            arguments, failed[0] if failed else 0, start.stdout, start.stderr
        )

    return run


@pytest.fixture(scope="session")
def warm_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Python for where a process's start is not the point: see `tests.warm`."""
    folder = tmp_path_factory.mktemp("warm")
    client(folder / "python", folder / "socket")
    with subprocess.Popen(
        [sys.executable, "-m", "tests.warm", str(folder / "socket")],
        stdout=subprocess.PIPE, cwd=ROOT, env=environment(),
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"ready\n"
            yield str(folder / "python")
        finally:
            process.kill()


@pytest.fixture(scope="session")
def forking_python(warm_python: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python for agents that imports little, and whose workers fork: see `tests.preloaded`."""
    path = tmp_path_factory.mktemp("preloaded") / "python"
    path.write_text(f'#!/bin/sh\nexec {warm_python} -u -m tests.preloaded "$@"\n')
    path.chmod(0o755)
    return str(path)


def with_labels(shards: Path, copy: Path, old: str, new: str) -> Path:
    """A copy of a shard set in which a class has another name: another set, for its fingerprint."""
    shutil.copytree(shards, copy)
    manifest = copy / "manifest.json"
    manifest.write_text(manifest.read_text().replace(f'"{old}"', f'"{new}"', 1))
    return copy


def tiny(shards: Path, runs: Path | str, name: str = "tiny", **overrides: object) -> list[str]:
    """Options of a training run that takes seconds: two epochs of 13 steps."""
    options: dict[str, object] = {
        "name": name,
        "runs": runs,
        "data.shards": shards,
        "data.image_size": 48,
        "model.width": 32,
        "model.heads": 4,
        "model.cut": 7,
        "augment.shift": 0.1,
        "augment.erasing": 0.5,
        "optim.lr": 2e-3,
        "optim.ema": 0.9,
        "optim.warmup_epochs": 0.5,
        "trainer.epochs": 2,
        "trainer.global_batch": 8,
        "trainer.eval_batch": 8,
        "trainer.log_every_steps": 1,
        "trainer.accelerator": "cpu",
        "wandb.mode": "disabled",
        **{key.replace("__", "."): value for key, value in overrides.items()},
    }
    return ["train", f"--config={TINY}", *(f"--{key}={value}" for key, value in options.items())]
