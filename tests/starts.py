"""The pytest side of `tests.zygote`: starts the command line without the cost of imports."""

import contextlib
import copy
import dataclasses
import itertools
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.conftest import ROOT

if TYPE_CHECKING:
    from tests.train.faults import Fault

LIMIT = 300.0  # seconds per start; on an idle machine most take less than three
_MOUNTED = 'mount -t tmpfs tmpfs /dev/shm && exec "$@"'
_NAMES = ("torch_", "psm_", "sem.")  # of PyTorch and multiprocessing


@dataclasses.dataclass(frozen=True)
class Start:
    """How one start ended.

    Attributes:
        statuses: of each rank; -9 where it was killed.
        sessions: of each rank, its loader workers included.
        stdout: output of the ranks.
        stderr: likewise.
    """

    statuses: list[int]
    sessions: list[int]
    seconds: float
    stdout: str
    stderr: str

    @property
    def log(self) -> str:
        return self.stdout + self.stderr

    @property
    def ended(self) -> bool:
        return not any(self.statuses)

    def killed_by(self, fault: "Fault") -> bool:
        """Whether the fault occurred, and nothing else went wrong before it."""
        return self.statuses[fault.rank] == -9 and f"struck by {fault}\n" in self.stderr

    def stopped_by(self, fault: "Fault") -> bool:
        """Whether the signal was sent, and all ranks stopped together because of it."""
        left = all(status == 128 + fault.signum for status in self.statuses)
        return left and f"struck by {fault}\n" in self.stderr


def namespace() -> list[str]:
    """Prefix that runs a command in a mount namespace; empty if this user may not have one."""
    for words in (["unshare", "--mount"], ["unshare", "--user", "--map-root-user", "--mount"]):
        words = [*words, "sh", "-c", _MOUNTED, "sh"]
        with contextlib.suppress(OSError):
            if not subprocess.run([*words, "true"], capture_output=True, check=False).returncode:
                return words
    return []


class Zygote:
    """Starts modules, each rank in a separate process.

    The processes have their own /dev/shm, so that anything left there was left by them.

    Args:
        folder: for their output.
        env: default environment of a start.
    """

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self.folder, self.env, self.starts = folder, dict(env), itertools.count(1)
        self.of_small_networks = False
        self.alone = namespace()
        self.process = subprocess.Popen(
            [*self.alone, sys.executable, "-W", "error", "-m", "tests.zygote"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env=self.env, bufsize=0,
        )  # fmt: skip

    def with_small_networks(self) -> "Zygote":
        """The same, but its ranks train `TwoBlocks` of `tests.train.small_network`."""
        other = copy.copy(self)
        other.of_small_networks = True
        return other

    def start(
        self,
        arguments: Sequence[str],
        ranks: int = 1,
        fault: "Fault | None" = None,
        record: Path | None = None,
        freeze: bool = False,
        *,
        module: str = "pattlite_dist",
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
        together: bool | None = None,
        agent: bool = False,
        strict: bool = True,
        preload: Sequence[str] = (),
        kill: Callable[[], bool] | None = None,
    ) -> Start:
        """Start a module and wait until all its ranks have ended.

        Args:
            arguments: of the command line.
            ranks: number of processes, which find each other as under torchrun.
            fault: where one of them is killed or signalled.
            record: prefix of the files in which each rank records its input.
            freeze: keep BatchNorm at its initial statistics.
            module: as for `python -m`.
            env: complete environment.
            cwd: working directory.
            together: if one rank fails the others continue, so that they can stop together; the
                default if the fault is a signal to stop.
            agent: one rank reports an error for all, as under torchrun.
            strict: turn warnings into errors.
            preload: modules that this start and all later ones need not import.
            kill: kill all ranks as soon as this returns true.
        """
        number = next(self.starts)
        files = [self.folder / f"{number}.{name}" for name in ("stdout", "stderr")]
        if together is None:
            together = fault is not None and fault.signum != signal.SIGKILL
        request = {
            "module": module,
            "arguments": [str(argument) for argument in arguments],
            "ranks": ranks,
            "fault": fault and dataclasses.asdict(fault),
            "record": record and str(record),
            "freeze": freeze,
            "small": self.of_small_networks,
            "env": dict(self.env if env is None else env),
            "cwd": str(cwd),
            "stdout": str(files[0]),
            "stderr": str(files[1]),
            "together": together,
            "agent": agent,
            "preload": list(preload),
            "strict": strict,
            "limit": LIMIT,
        }
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        sessions = self._answer()["sessions"]
        while kill is not None and not self._answered(0.01):
            if kill():
                for pid in sessions:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(pid, signal.SIGKILL)
                break
        ended = self._answer()
        stdout, stderr = (path.read_text() if path.exists() else "" for path in files)
        return Start(**ended, sessions=sessions, stdout=stdout, stderr=stderr)

    def _answered(self, seconds: float) -> bool:
        return bool(select.select([self.process.stdout], [], [], seconds)[0])

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        assert self._answered(LIMIT + 60), "the zygote hangs"
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    @property
    def root(self) -> Path:
        """The file system as seen by its processes."""
        return Path(f"/proc/{self.process.pid}/root")

    def inside(self, *command: object) -> None:
        """Run a command that sees the same file systems as its processes."""
        enter = ["nsenter", f"--target={self.process.pid}", "--mount"] if self.alone else []
        subprocess.run([*enter, *map(str, command)], check=True)

    def shared_memory(self) -> set[str]:
        """Names left in shared memory by PyTorch or multiprocessing."""
        names = {path.name for path in (self.root / "dev/shm").iterdir()}
        return {name for name in names if name.startswith(_NAMES) and (self.alone or _left(name))}

    def close(self) -> None:
        with contextlib.ExitStack() as stack:
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None:
                    stack.callback(pipe.close)
            self.process.kill()
            self.process.wait()


def _left(name: str) -> bool:
    """Whether a name in shared memory belongs to a process that has ended."""
    _, _, pid = name.partition("_")
    pid = pid.partition("_")[0]
    return pid.isdigit() and not Path("/proc", pid).exists()
