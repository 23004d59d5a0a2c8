"""The commands of the README and the documentation run here, in a clone, on generated faces.

Those of a page run in their order, and the pages in the order of the index. `tests.documents` says
which are run elsewhere or only parsed.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT, environment
from tests.documents import commands, pages, told

# What a command gets besides, so that it takes seconds: the README's own are for real data.
SHORT = (
    "--trainer.epochs=1 --trainer.global_batch=52 --trainer.accelerator=cpu "
    "--data.image_size=48 --model.width=32 --wandb.mode=offline --optim.warmup_epochs=0"
)


def without_download(line: str) -> str:
    """The command with random weights, for there may be no network."""
    return line.replace(" --model.weights imagenet", "").replace(" model.weights=imagenet", "")


@pytest.fixture(scope="module")
def clone(faces_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tracked files, with the virtual environment that is there and a fer2013.csv."""
    folder = tmp_path_factory.mktemp("clone") / "pattlite_dist"
    folder.mkdir()
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    (ROOT / ".venv" / "installed").touch()  # newer than the copies: nothing is installed again
    shutil.copy(faces_csv, folder / "fer2013.csv")
    return folder


def shell(line: str, folder: Path, **env: str) -> "subprocess.CompletedProcess[str]":
    path = f"{folder}/.venv/bin:{environment()['PATH']}"
    # The package of the clone, not the one that the environment was made for.
    extra = environment(**{"PATH": path, "PYTHONPATH": str(folder), "WANDB_API_KEY": "", **env})
    return subprocess.run(
        line, shell=True, cwd=folder, env=extra, capture_output=True, text=True, timeout=540
    )


def test_every_command_that_trains_names_its_weights() -> None:
    lines = [one.line for page in pages() for one in commands(page)]
    for page in pages():
        lines += re.findall(r"`([^`\n]*torchrun\.sh train[^`]*)`", (ROOT / page).read_text())
    trains = [
        line
        for line in lines
        if " -c configs/" in line or ("SOURCE=" in line and "make demo" in line)
    ]
    assert len(trains) >= 10
    assert [line for line in trains if not re.search(r"model\.weights[ =]\w", line)] == []


@pytest.mark.slow
def test_make_demo_trains_far_above_chance(clone: Path) -> None:
    done = shell("make demo", clone)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"│ test +│ +400 │ +([\d.]+) │", done.stdout)
    assert found, done.stdout
    assert float(found[1]) > 60  # chance is 14.3
    for name in ("curves.png", "confusion.png"):
        assert f"demo/runs/demo/{name}" in done.stdout
        assert (clone / "demo" / "runs" / "demo" / name).exists()


@pytest.fixture
def warm_bin(warm_python: str, clone: Path) -> Path:
    """A folder of programs that need not import PyTorch; `make demo` has run with real ones."""
    folder = clone / "warm"
    folder.mkdir()
    texts = {
        "python": f'[ "$1" != -m ] || set -- -u "$@"\nexec {warm_python} "$@"\n',
        "pattlite": f'exec {warm_python} -u -m pattlite_dist "$@"\n',
        "torchrun": f'exec {warm_python} -u -m torch.distributed.run "$@"\n',
    }
    for name, text in texts.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}")
        (folder / name).chmod(0o755)
    return folder


@pytest.mark.slow
def test_the_other_commands_run_in_their_order(
    clone: Path, warm_bin: Path, warm_python: str
) -> None:
    path = f"{warm_bin}:{clone}/.venv/bin:{environment()['PATH']}"
    lines = [one.line for one in told("run")]
    assert {"make demo", "make test"} <= set(lines)
    rest = [line for line in lines if line not in ("make demo", "make test")]
    assert len(rest) >= 18
    for line in rest:
        command = without_download(line)
        if " train " in line:
            command += f" {SHORT}"
        elif "SOURCE=" in line:
            # Two ran in `make demo`.
            command += f" NPROC=1 BIN={warm_bin.name} TRAIN_ARGS='{SHORT}'"
        elif " evaluate " in line:
            command += " --pictures=false"  # `make demo` drew them
        done = shell(command, clone, PATH=path, PYTHON_EXEC=warm_python)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
