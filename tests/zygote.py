"""A process that imports everything once and forks start after start of the command line.

Each rank is a whole process with a session of its own, which runs a module as `python -m` would,
with an environment, a folder and output files of its own, and which may be told to kill itself at
one exact place. Requests are read as lines of JSON from the standard input. Each is answered by
two lines: its processes, at once, and how they ended, once all of them are gone.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, NoReturn

import jsonargparse  # noqa: F401  else each rank would import it
import torch
from matplotlib.backends import backend_agg  # noqa: F401  and this

from pattlite_dist import cli
from pattlite_dist.evaluation import evaluate  # noqa: F401
from pattlite_dist.model import build
from pattlite_dist.tracking import curves
from tests.leaving import leave
from tests.train.faults import EVERY, Fault, install
from tests.train.small_network import TwoBlocks


def be_rank(request: dict[str, Any], rank: int, port: int) -> NoReturn:
    """In the forked process: become one rank of a start, to the end."""
    os.setsid()
    for number, (path, flags) in enumerate((
        (os.devnull, os.O_RDONLY),
        (request["stdout"], os.O_WRONLY | os.O_CREAT | os.O_APPEND),
        (request["stderr"], os.O_WRONLY | os.O_CREAT | os.O_APPEND),
    )):  # fmt: skip
        os.dup2(os.open(path, flags, 0o644), number)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    size = request["ranks"]
    if size > 1:
        os.environ.update(
            TORCHELASTIC_RUN_ID="zygote", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
            RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), LOCAL_WORLD_SIZE=str(size),
        )  # fmt: skip
    if request["agent"]:  # a folder that an agent would share out, so that one rank tells a mistake
        attempt = Path(request["stderr"] + ".agent", "attempt_0", str(rank))
        attempt.mkdir(parents=True, exist_ok=True)
        os.environ["TORCHELASTIC_ERROR_FILE"] = str(attempt / "error.json")
    fault = Fault(**request["fault"]) if request["fault"] else None
    record = request["record"] and f"{request['record']}.{rank}"
    mine = fault is not None and fault.rank in (rank, EVERY)
    install(fault if mine else None, record, request["freeze"])
    if request["small"]:
        build.MobileNetV2 = TwoBlocks  # type: ignore[misc]
    if not request["strict"]:
        warnings.resetwarnings()
    if "wandb" in sys.modules:  # its own folder goes with the first of those forked that ends
        media = tempfile.TemporaryDirectory("wandb-media")
        atexit.register(media.cleanup)
        importlib.import_module("wandb.sdk.data_types._private").MEDIA_TMP.name = media.name
    sys.argv[1:] = request["arguments"]
    status = 0
    try:
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if not request["small"] or not isinstance(end.code, int | None):
            raise  # to the interpreter's own end
        status = end.code or 0
    if not request["small"]:
        sys.exit()
    leave(status)


def wait(ranks: list[int], limit: float, together: bool) -> list[int]:
    """How each rank ended.

    Where one fails, the others are killed, as a scheduler does, unless all are to leave `together`.
    """
    statuses: dict[int, int] = {}
    deadline = time.monotonic() + limit
    while len(statuses) < len(ranks):
        for pid in set(ranks) - statuses.keys():
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                statuses[pid] = os.waitstatus_to_exitcode(status)
        failed = any(statuses.values()) and not together
        if failed or time.monotonic() > deadline:
            for pid in set(ranks) - statuses.keys():
                with contextlib.suppress(ProcessLookupError):  # not yet a session of its own
                    os.killpg(pid, signal.SIGKILL)
        time.sleep(0.01)
    return [statuses[pid] for pid in ranks]


def start(request: dict[str, Any]) -> dict[str, Any]:
    """Start a module once, and see its ranks to their end."""
    with socket.socket() as held:
        # Nobody else is given the port while this is bound; rank 0 may still listen at it.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        pids = []
        for rank in range(request["ranks"]):
            pid = os.fork()
            if not pid:
                held.close()
                be_rank(request, rank, port)
            pids.append(pid)
        print(json.dumps({"sessions": pids}), flush=True)
        begin = time.monotonic()
        statuses = wait(pids, request["limit"], request["together"])
    return {"statuses": statuses, "seconds": time.monotonic() - begin}


def preload(modules: list[str]) -> None:
    """Import for all later ranks what they would import themselves."""
    for name in modules:
        if name not in sys.modules:
            importlib.import_module(name)
            gc.collect()
            gc.freeze()  # else each rank's collector would walk all of this, and copy its pages
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "a fork takes along only one thread"


def serve() -> None:
    """Answer requests until there are no more."""
    torch.set_num_threads(1)
    # A picture takes as long as a dozen steps; tests/tracking/test_curves.py is about it.
    curves.write_figure = lambda _, path: path.touch()
    cli.parser_of = functools.cache(cli.parser_of)  # made once, from a hundred types
    with contextlib.suppress(Exception):  # for what it imports
        cli.parse("train", [])
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        preload(request["preload"])
        print(json.dumps(start(request)), flush=True)


if __name__ == "__main__":
    serve()
