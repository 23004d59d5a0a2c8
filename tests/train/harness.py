"""Starts of a run that are killed at exact places, and how two runs are compared."""

import contextlib
import dataclasses
import json
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from pattlite_dist.tracking.record import read_metrics
from pattlite_dist.train import checkpoint as checkpoints
from tests.conftest import ROOT, environment
from tests.train.zygote import Fault

LIMIT = 120.0  # seconds for one start; a whole run takes about three
SHARED_MEMORY = ("torch_", "psm_", "sem.")


def final(run: Path) -> dict[str, Any]:
    path = checkpoints.newest(run / "checkpoints")
    assert path is not None
    return checkpoints.load(path)


def assert_same(a: Any, b: Any, where: str = "") -> None:
    """Equal bit for bit, tensors inside included."""
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
    for key in ("train/loss", "train/lr", "train/top1", "val/top1", "val/macro_f1", "val/nll"):
        assert logged(one, key) == logged(other, key), key
    assert [step for step, _ in logged(one, "train/loss")] == list(range(a["global_step"]))


@dataclasses.dataclass(frozen=True)
class Start:
    """How one start of a run ended.

    Attributes:
        statuses: of each rank; -9 where it was killed.
        sessions: of each rank, its loader workers included.
        log: what the ranks wrote.
    """

    statuses: list[int]
    sessions: list[int]
    seconds: float
    log: str

    @property
    def ended(self) -> bool:
        return not any(self.statuses)

    def killed_by(self, fault: Fault) -> bool:
        """Whether the fault was met, and nothing else went wrong before."""
        return self.statuses[fault.rank] == -9 and f"struck by {fault}\n" in self.log

    def stopped_by(self, fault: Fault) -> bool:
        """Whether the signal was met, and all ranks left together because of it."""
        left = all(status == 128 + fault.signum for status in self.statuses)
        return left and f"struck by {fault}\n" in self.log


class Zygote:
    """The pytest side of `tests.train.zygote`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.starts = folder, 0
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.train.zygote"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env=environment(), bufsize=0,
        )  # fmt: skip

    def start(
        self,
        arguments: Sequence[str],
        ranks: int = 1,
        fault: Fault | None = None,
        record: Path | None = None,
        freeze: bool = False,
    ) -> Start:
        """Start a run and wait until each of its ranks is gone."""
        self.starts += 1
        log = self.folder / f"start-{self.starts}.log"
        request = {
            "arguments": list(arguments),
            "ranks": ranks,
            "fault": fault and dataclasses.asdict(fault),
            "record": record and str(record),
            "freeze": freeze,
            "log": str(log),
            "limit": LIMIT,
        }
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        assert select.select([self.process.stdout], [], [], LIMIT + 60)[0], "the zygote hangs"
        return Start(**json.loads(self.process.stdout.readline()), log=log.read_text())

    def close(self) -> None:
        with contextlib.ExitStack() as stack:
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None:
                    stack.callback(pipe.close)
            self.process.kill()
            self.process.wait()


def uninterrupted(
    zygote: Zygote, folder: Path, arguments: Callable[[str], list[str]]
) -> dict[int, Path]:
    """Runs that nothing stops, by their number of ranks, which is their name as well."""
    for ranks in (1, 2):
        start = zygote.start(arguments(str(ranks)), ranks)
        assert start.ended, start.log
    return {ranks: folder / str(ranks) for ranks in (1, 2)}


def alive(sessions: Sequence[int]) -> list[int]:
    """Processes of these sessions, zombies left out."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(session) in sessions and state != "Z":
                found.append(int(entry.name))
    return found


def shared_memory() -> set[str]:
    """Names that PyTorch or multiprocessing left in shared memory."""
    return {p.name for p in Path("/dev/shm").iterdir() if p.name.startswith(SHARED_MEMORY)}


def until(empty: Callable[[], object], seconds: float = 15) -> object:
    """What is still there after so long; returns as soon as nothing is."""
    deadline = time.monotonic() + seconds
    while (left := empty()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


@contextlib.contextmanager
def nothing_left_over(sessions: list[int]) -> Iterator[None]:
    """Afterwards, no process of `sessions` lives and shared memory is as it was."""
    before = shared_memory()
    yield
    assert not until(lambda: alive(sessions))
    assert not until(lambda: shared_memory() - before)
