"""`pattlite --version -v`: what decides what a run does, without importing it."""

import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from pattlite_dist import __version__
from pattlite_dist.cli import main
from pattlite_dist.commands import versions
from tests.conftest import environment


def program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def test_each_library_is_told_with_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version", "-v"]) == 0
    told = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert told["pattlite_dist"] == __version__
    assert told["Python"].startswith(platform.python_version())
    for name in ("torch", "pytorch-lightning", "webdataset", "submitit", "wandb"):
        assert told[name] == metadata.version(name)
    assert {"CUDA", "GPUs", "OS", "CPU", "SLURM"} <= told.keys()


def test_the_short_version_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"pattlite_dist {__version__}\n"


def test_cuda_is_that_of_pytorchs_build() -> None:
    built = torch.version.cuda
    assert dict(versions.versions())["CUDA"] == (
        f"cuda {built}" if built else "none: a build for CPUs"
    )


def test_the_cluster_and_the_gpus_are_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "sinfo", "echo slurm 24.05.1")
    program(tmp_path, "nvidia-smi", "echo 'NVIDIA H100, 550.1'; echo 'NVIDIA H100, 550.1'")
    monkeypatch.setenv("PATH", str(tmp_path))
    found = dict(versions.versions())
    assert found["SLURM"] == "24.05.1"
    assert found["GPUs"] == "NVIDIA H100, 550.1; NVIDIA H100, 550.1"
    program(tmp_path, "sinfo", "echo no configuration >&2; exit 1")
    (tmp_path / "nvidia-smi").unlink()
    found = dict(versions.versions())
    assert found["SLURM"] == "not known: no configuration"
    assert found["GPUs"] == "none: nvidia-smi is not installed"


def test_a_library_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "LIBRARIES", ("no-such-library",))
    assert dict(versions.versions())["no-such-library"] == "not installed"


def test_nothing_is_imported_for_it() -> None:
    code = (
        "import sys; from pattlite_dist.cli import main; main(['--version', '-v']); "
        "assert not {'torch', 'numpy', 'wandb', 'pydantic'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True)
