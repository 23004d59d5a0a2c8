"""A Python that need not import PyTorch, for tests in which a process's start is not the point.

The program that `client` writes stands where a profile names a Python, or first in PATH. It hands
its arguments, environment, folder, open files and machine over to a process that has imported what
others wrote and nothing of this package, which forks. Signals, the end and the exit status pass
between the two, but the forked process is not SLURM's own: where jobs are signalled or killed they
have a real Python.
"""

import contextlib
import ctypes
import gc
import json
import os
import runpy
import select
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

NAMESPACES = ("uts", "net", "mnt")  # what makes a machine in tests: its name, network and files
CLIENT = """#!{python} -IS
import json, os, signal, socket, sys

if sys.argv[1:3] != ["-u", "-m"]:  # no job, but the doctor or a script
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
link = socket.socket(socket.AF_UNIX)
link.connect({address!r})
for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(signum, lambda number, _: link.send(bytes([number])))
machine = [os.open("/proc/self/ns/" + name, os.O_RDONLY) for name in {namespaces}]
request = json.dumps([sys.argv[3:], dict(os.environ), os.getcwd()]).encode()
socket.send_fds(link, [len(request).to_bytes(4, "big")], [0, 1, 2, *machine])
link.sendall(request)
status = int((link.recv(4) or b"1").decode())
if status < 0:
    signal.signal(-status, signal.SIG_DFL) if status != -9 else None
    os.kill(os.getpid(), -status)
sys.exit(status)
"""


def client(path: Path, address: Path) -> None:
    """Write the program that asks the process at this address."""
    path.write_text(
        CLIENT.format(python=sys.executable, address=str(address), namespaces=NAMESPACES)
    )
    path.chmod(0o755)


def move(machine: list[int]) -> None:
    """Go to the namespaces that a client has opened."""
    own = [os.open(f"/proc/self/ns/{name}", os.O_RDONLY) for name in NAMESPACES]
    for here, there in zip(own, machine, strict=True):
        elsewhere = not os.path.sameopenfile(here, there)
        if elsewhere and ctypes.CDLL(None, use_errno=True).setns(there, 0):
            raise OSError(ctypes.get_errno(), "setns")


def be_job(
    arguments: list[str], env: dict[str, str], folder: str, files: list[int], path: list[str]
) -> NoReturn:
    """In the forked process: run the module as `python -m` does, to the end."""
    os.setsid()
    move(files[3:])
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.dup2(files[number], number)
        errors = "backslashreplace" if name == "stderr" else None
        # A new stream: the old one may take a pipe for a file.
        stream = open(number, "w" if number else "r", 1, errors=errors, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    if "PID_FILE" in env:
        Path(env["PID_FILE"]).write_text(str(os.getpid()))
    sys.path[:] = [folder, *filter(None, env.get("PYTHONPATH", "").split(":")), *path]
    sys.argv[1:] = arguments[1:]
    status: Any = 0
    try:
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    except SystemExit as leave:
        status = leave.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    sys.exit(status)


def see_through(link: socket.socket, path: list[str]) -> None:
    """Start what a client asks for, hand its signals on, and tell it the end; kill it with it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    head, files, _, _ = socket.recv_fds(link, 4, 3 + len(NAMESPACES))
    with link.makefile("rb") as stream:
        arguments, env, folder = json.loads(stream.read(int.from_bytes(head, "big")))
    pid = os.fork()
    if not pid:
        link.close()
        be_job(arguments, env, folder, files, path)
    ended = os.pidfd_open(pid)
    while ended not in select.select([link, ended], [], [])[0]:
        for number in link.recv(16) or [signal.SIGKILL]:
            os.kill(pid, number)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with contextlib.suppress(OSError):  # the client was killed
        link.sendall(str(status).encode())


def serve(address: str) -> None:
    """Answer clients until the process is killed."""
    own = {str(Path.cwd()), *os.environ["PYTHONPATH"].split(":")}
    path = [entry for entry in sys.path if entry not in own]
    assert "pattlite_dist" not in sys.modules, "each job imports its own copy"
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "a fork takes along only one thread"
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who see a job through
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        print("ready", flush=True)
        while True:
            link, _ = listener.accept()
            if not os.fork():
                listener.close()
                see_through(link, path)
                os._exit(0)
            link.close()


if __name__ == "__main__":
    import jsonargparse
    import pytorch_lightning
    import s3fs
    import submitit
    import torch.distributed.run
    import torchmetrics
    import torchvision
    import wandb.sdk.launch  # as `wandb.init` does, for a second
    from matplotlib.backends import backend_agg

    torch.set_num_threads(1)
    assert (
        jsonargparse and pytorch_lightning and submitit and torchmetrics and torchvision and wandb
    )
    assert backend_agg and s3fs
    gc.freeze()
    serve(sys.argv[1])
