"""Helpers to start runs that are killed at exact points, and to compare two runs."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from pattlite_dist.tracking.record import read_metrics
from pattlite_dist.train import checkpoint as checkpoints
from tests.starts import Zygote


def final(run: Path) -> dict[str, Any]:
    path = checkpoints.newest(run / "checkpoints")
    assert path is not None
    return checkpoints.load(path)


def assert_same(a: Any, b: Any, where: str = "") -> None:
    """Assert bitwise equality, including nested tensors."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{i}]")
    else:
        assert a == b, where


def logged(run: Path, key: str) -> list[tuple[int, float]]:
    """(step, value) of a metric, from a run's own record."""
    lines = read_metrics(run / "metrics.jsonl")
    return [(line["step"], line[key]) for line in lines if key in line]


def assert_same_training(one: Path, other: Path) -> None:
    a, b = final(one), final(other)
    for key in ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers"):
        assert_same(a[key], b[key], key)
    assert a["global_step"] == b["global_step"]
    for key in (
        "train/loss", "train/lr", "train/top1", "val/top1", "val/macro_f1", "val/nll",
        "train/grad_norm",
    ):  # fmt: skip
        assert logged(one, key) == logged(other, key), key
    for key in ("train/loss", "time/steps"):
        assert [step for step, _ in logged(one, key)] == list(range(a["global_step"]))


def uninterrupted(
    zygote: Zygote, folder: Path, arguments: Callable[[str], list[str]]
) -> dict[int, Path]:
    """Uninterrupted runs by their number of ranks, which is also their name."""
    for ranks in (1, 2):
        start = zygote.start(arguments(str(ranks)), ranks)
        assert start.ended, start.log
    return {ranks: folder / str(ranks) for ranks in (1, 2)}


def alive(sessions: Sequence[int]) -> list[int]:
    """Processes of these sessions, except zombies."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(session) in sessions and state != "Z":
                found.append(int(entry.name))
    return found


def until(empty: Callable[[], object], seconds: float = 15) -> object:
    """Wait until `empty` returns nothing; returns what is left after the time limit."""
    deadline = time.monotonic() + seconds
    while (left := empty()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


@contextlib.contextmanager
def nothing_left_over(zygote: Zygote, sessions: list[int]) -> Iterator[None]:
    """Check that afterwards no process of `sessions` is alive and shared memory is unchanged."""
    before = zygote.shared_memory()
    yield
    left = until(lambda: alive(sessions))
    assert not left, f"processes {left}"
    left = until(lambda: zygote.shared_memory() - before)
    assert not left, f"shared memory {left}"


@contextlib.contextmanager
def asleep(pids: list[int]) -> Iterator[None]:
    """Stop processes meanwhile."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
