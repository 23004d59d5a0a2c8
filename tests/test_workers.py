"""The plugin of `tests.workers`, in runs of pytest with real workers."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

CONFTEST = """
import pathlib

from tests import workers

workers.LONGEST = ("tests/test_c.py", workers.CLUSTER)
workers.ROOT = pathlib.Path(__file__).parent

def pytest_configure(config):
    config.pluginmanager.register(workers.Workers(), "workers")
"""
FILE = """
import os, pathlib, pytest

@pytest.mark.parametrize("number", range(6))
{mark}def test_it(number):
    with pathlib.Path("done").open("a") as file:
        file.write(f"{name} {{os.environ.get('PYTEST_XDIST_WORKER')}}\\n")
"""
SKIPS = "import pytest\n\ndef test_it():\n    pytest.skip('no such thing here')\n"


def run(folder: Path, *options: str, **env: str) -> "subprocess.CompletedProcess[str]":
    (folder / "tests").mkdir(exist_ok=True)
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = slurm\n")
    for name in "abcd":
        mark = "@pytest.mark." + "slurm\n" if name in "bd" else ""  # this file uses none
        text = FILE.format(name=name, mark=mark)
        (folder / "tests" / f"test_{name}.py").write_text(text)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "CI"))}
    kept |= {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # each takes a while
    own = ["-p", "no:cacheprovider", "-p", "xdist"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *own, *options, "tests"],
        cwd=folder, env={**kept, **env}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_group_goes_to_one_worker_and_the_longest_begin_first(tmp_path: Path) -> None:
    done = run(tmp_path, "-n", "2", "--dist", "loadscope", "--no-loadscope-reorder")
    assert done.returncode == 0, done.stdout
    lines = [line.split() for line in (tmp_path / "done").read_text().splitlines()]
    assert len(lines) == 24
    of = {name: {worker for found, worker in lines if found == name} for name in "abcd"}
    assert all(len(workers) == 1 for workers in of.values())
    assert of["b"] == of["d"], "tests of the cluster are one group"
    assert of["c"] != of["b"], "the two longest begin at once, each on a worker"
    assert {lines[0][0], next(n for n, worker in lines if worker != lines[0][1])} == {"b", "c"}


def test_without_workers_the_order_stays(tmp_path: Path) -> None:
    assert run(tmp_path).returncode == 0
    lines = (tmp_path / "done").read_text().splitlines()
    assert lines == [f"{name} None" for name in "abcd" for _ in range(6)]


def test_the_last_lines_say_what_was_skipped_and_how_long_it_took(tmp_path: Path) -> None:
    assert run(tmp_path).stdout.splitlines()[-2] == "skipped: nothing"
    (tmp_path / "tests" / "test_e.py").write_text(SKIPS)
    done = run(tmp_path, "-n", "2", "--dist", "loadscope")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-2] == "skipped: 1 test: no such thing here"
    last = done.stdout.splitlines()[-1]
    assert re.fullmatch(r"took 0 min \d+ s with 2 workers on \d+ cores", last)


def test_in_ci_nothing_may_be_skipped(tmp_path: Path) -> None:
    run(tmp_path)
    (tmp_path / "tests" / "test_e.py").write_text(SKIPS)
    assert run(tmp_path, "-n", "2", CI="true").returncode == 1
