"""`shards create`, killed at arbitrary moments until it finishes."""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pattlite_dist.shards.companions import COMPANION_NAMES
from pattlite_dist.shards.faces import write_faces
from tests.conftest import command, environment
from tests.shards.conftest import snapshot

KILLS = 20
PER_SHARD = 8


def alive(group: int) -> list[int]:
    """Running processes of a group; zombies do not count."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, its_group = (folder / "stat").read_text().rsplit(") ", 1)[1].split()[:3]
        except (OSError, IndexError):
            continue
        if int(its_group) == group and state not in "ZX":
            found.append(int(folder.name))
    return found


def wait_for_end_of(group: int) -> None:
    deadline = time.monotonic() + 20
    while left := alive(group):
        assert time.monotonic() < deadline, f"{left} outlived the process that started them"
        time.sleep(0.01)


def moment(chance: random.Random, out: Path) -> Callable[[], bool]:
    """When to kill: after some time, or once a number of files have appeared or disappeared."""
    if chance.random() < 0.3:
        end = time.monotonic() + chance.uniform(0.1, 1.5)
        return lambda: time.monotonic() > end
    left, seen = chance.randint(1, 40), names(out)

    def come() -> bool:
        nonlocal left, seen
        now = names(out)
        left -= len(now ^ seen)
        seen = now
        return left <= 0

    return come


def names(out: Path) -> set[str]:
    found = set()
    for folder in (out, out / ".creating"):
        try:
            found |= {entry.path for entry in os.scandir(folder)}
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_twenty_kills_leave_the_bytes_of_an_undisturbed_run(tmp_path: Path) -> None:
    write_faces(tmp_path / "fer2013.csv", train=160, val=24, test=24)

    def start(out: str) -> "subprocess.Popen[bytes]":
        line = command(
            ["shards", "create", "fer2013.csv", out, f"--samples-per-shard={PER_SHARD}", "--jobs=2"]
        )
        return subprocess.Popen(
            line, cwd=tmp_path, env=environment(), start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip

    def finish(running: "subprocess.Popen[bytes]") -> None:
        _, stderr = running.communicate(timeout=60)
        assert running.returncode == 0, stderr.decode()
        wait_for_end_of(running.pid)

    finish(start("whole"))
    expected = snapshot(tmp_path / "whole")
    assert len(expected) == 27 + len(COMPANION_NAMES)

    out, chance = tmp_path / "out", random.Random(20)
    kills, killed_with = 0, set()
    while kills < KILLS:
        running = start("out")
        due = moment(chance, out)
        while running.poll() is None and not due():
            time.sleep(0.001)
        running.send_signal(signal.SIGKILL)
        _, stderr = running.communicate(timeout=60)
        wait_for_end_of(running.pid)
        if running.returncode == -signal.SIGKILL:
            kills += 1
            killed_with.add(len(list(out.glob("*.tar"))))
            continue
        assert running.returncode == 0, stderr.decode()
        assert snapshot(out) == expected  # including hidden files: nothing is left over
        assert not (out / ".creating").exists()
        shutil.rmtree(out)
    assert len(killed_with) > 3, killed_with  # it was killed in different states
    finish(start("out"))
    assert snapshot(out) == expected
    assert not (out / ".creating").exists()
