"""A Python that has imported everything, in which torchrun's agent forks its workers.

    python -m tests.preloaded -m pattlite_dist.runtime.elastic …

is the agent, or `launch` beside it, and the Python may be that of `tests.warm`. Its workers are
processes of their own, as always: each has a session, an environment and an exit status, may be
killed, and is started again. But none begins with seconds of imports.
"""

import gc
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import jsonargparse  # noqa: F401  as a worker would
from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler
from torch.distributed.elastic.rendezvous import dynamic_rendezvous

from pattlite_dist.cli import main
from pattlite_dist.runtime import elastic, launch
from pattlite_dist.tracking import curves
from pattlite_dist.train import run  # noqa: F401


class Forked:
    """What the agent uses of `subprocess.Popen`."""

    def __init__(
        self, args: Sequence[str], env: Mapping[str, str],
        stdout: IO[str] | None, stderr: IO[str] | None, **_: Any,
    ) -> None:  # fmt: skip
        self.args, self.returncode = args, None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            os._exit(_work(args[args.index("pattlite_dist") + 1 :], env, stdout, stderr))

    def poll(self) -> int | None:
        if self.returncode is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(list(self.args), timeout or 0)
            time.sleep(0.01)
        return status

    def send_signal(self, signum: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, signum)


def _work(
    arguments: Sequence[str], env: Mapping[str, str], stdout: IO[str] | None, stderr: IO[str] | None
) -> int:
    """In the worker: what a new process would have of its own, then the command line."""
    os.setsid()
    for number, file in ((1, stdout), (2, stderr)):
        if file is not None:
            os.dup2(file.fileno(), number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # among them the agent's connections
    for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(signum, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(env)
    if "SMALL" in env:
        from pattlite_dist.model import build
        from tests.train.small_network import TwoBlocks

        build.MobileNetV2 = TwoBlocks  # type: ignore[misc]
    if "HOLDS" in env:
        hold(env["HOLDS"])
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        return main(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def hold(where: str) -> None:
    """Have rank 0 wait, at the end of some steps, until it may go on or is asked to stop.

    Args:
        where: `FOLDER:STEP,STEP`; there, it leaves `STEP.reached` and waits for `STEP.go`.
    """
    from pattlite_dist.train.saving import Saver

    folder, _, steps = where.partition(":")
    ends = Saver.on_train_batch_end

    def held(self: Saver, trainer: Any, *args: Any) -> None:
        step = str(trainer.global_step)
        if self.world.main and step in steps.split(","):
            Path(folder, f"{step}.reached").touch()
            while not Path(folder, f"{step}.go").exists() and not self.signals.got:
                time.sleep(0.02)
        ends(self, trainer, *args)

    Saver.on_train_batch_end = held  # type: ignore[method-assign]


def arguments_with(conf: str) -> Callable[..., list[str]]:
    """Have a machine's agent started with more of torchrun's `--rdzv-conf`."""
    original = launch.agent_arguments

    def arguments(*given: Any) -> list[str]:
        words = original(*given)
        return [f"{word},{conf}" if word.startswith("--rdzv-conf") else word for word in words]

    return arguments


def _method_name(depth: int = 2) -> str:
    """Torch's own looks for the source of the whole stack in all modules: seconds an agent."""
    return sys._getframe(depth).f_code.co_name


if __name__ == "__main__":
    dynamic_rendezvous.get_method_name = _method_name
    subprocess_handler.Popen = Forked  # type: ignore[assignment,misc]
    curves.write_figure = lambda _, path: path.touch()  # see tests.zygote
    gc.collect()
    gc.freeze()  # see tests.zygote
    assert sys.argv[1] == "-m"
    if sys.argv[2] == launch.__name__:
        if "RDZV_CONF" in os.environ:
            launch.agent_arguments = arguments_with(os.environ["RDZV_CONF"])
        sys.exit(launch.main(sys.argv[3:]))
    assert sys.argv[2] == elastic.__name__
    sys.exit(elastic.main(sys.argv[3:]))
