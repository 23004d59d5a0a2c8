"""A process that imports everything once and forks the ranks of start after start of a run.

Each rank is a whole process with a session of its own, which calls the command line as a launcher
would make it do, and which may be told to kill itself at one exact place. Requests are read as
lines of JSON from the standard input; each is answered by a line once all of its ranks are gone.
"""

import contextlib
import hashlib
import io
import json
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import jsonargparse  # noqa: F401  else each rank would import it
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from pattlite_dist.cli import main
from pattlite_dist.train import run as runs
from pattlite_dist.train.names import parse_name

WRITE, RENAME, RENAMED, REMOVE, REWIND = "write", "rename", "renamed", "remove", "rewind"
EVERY = -1


@dataclass(frozen=True)
class Fault:
    """Where a rank kills itself, or is sent another signal.

    Attributes:
        place: a hook of Lightning, or what happens to a checkpoint: it is being written, about to
            be renamed, just renamed, or an older one is about to be removed after it; or the
            metrics are about to be rewound as a run starts.
        step: optimiser steps taken by then; `REWIND` takes no notice.
        late: in a hook, after the package's own callbacks instead of before them.
        detail: the batch of a validation; how many per cent of a checkpoint have been written.
        rank: who; `EVERY` for all of them.
        signum: by what; what is not SIGKILL is sent once, and the rank lives on.
    """

    place: str
    step: int
    late: bool = False
    detail: int = 0
    rank: int = 0
    signum: int = int(signal.SIGKILL)

    def strike(self) -> None:
        os.write(2, f"struck by {self}\n".encode())
        os.kill(os.getpid(), self.signum)


def killer(fault: Fault) -> Callback:
    """A callback that strikes in a hook, once."""
    struck = False

    def hook(self: Callback, trainer: pl.Trainer, module: pl.LightningModule, *args: Any) -> None:
        nonlocal struck
        anywhere = not fault.place.startswith("on_validation_batch")
        here = trainer.global_step == fault.step and (anywhere or args[-1] == fault.detail)
        if here and not struck:
            struck = True
            fault.strike()

    return type("Killer", (Callback,), {fault.place: hook})()


def watch_files(fault: Fault) -> None:
    """Kill at what the interpreter tells of renames and removals, whoever asks for them."""
    renamed = dying = False

    def is_checkpoint(path: Any, step: int | None) -> bool:
        found = parse_name(Path(os.fsdecode(path)).name)
        return found is not None and step in (None, found.step)

    def met(event: str, args: tuple[Any, ...]) -> bool:
        if fault.place == RENAMED:
            return renamed
        if fault.place == REMOVE:
            return renamed and event == "os.remove" and is_checkpoint(args[0], None)
        if fault.place == REWIND:
            return event == "os.rename" and os.fsdecode(args[1]).endswith("metrics.jsonl")
        return event == "os.rename" and is_checkpoint(args[1], fault.step)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal renamed, dying
        if dying:  # which makes events of its own
            return
        if met(event, args):
            dying = True
            fault.strike()
        renamed = renamed or (event == "os.rename" and is_checkpoint(args[1], fault.step))

    sys.addaudithook(hook)


def tear_checkpoint(fault: Fault) -> None:
    """Kill when a part of a checkpoint's bytes has reached its file."""
    save = torch.save

    def torn(content: Any, target: Any) -> None:
        if content.get("global_step") != fault.step:
            save(content, target)
            return
        whole = io.BytesIO()
        save(content, whole)
        part = whole.getvalue()[: len(whole.getvalue()) * fault.detail // 100]
        target.write(part)
        target.flush()
        fault.strike()

    torch.save = torn


class Recorder(Callback):
    """Writes down what a rank is fed, byte for byte, and its losses.

    Args:
        path: a line of JSON a step.
        freeze: keep BatchNorm to its starting statistics.
    """

    def __init__(self, path: str, freeze: bool) -> None:
        self.path, self.freeze = Path(path), freeze

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        images = batch["image"].contiguous().numpy()
        self.line = {
            "place": [int(batch["epoch"]), int(batch["step"])],
            "ids": batch["id"].tolist(),
            "pixels": [hashlib.sha256(image.tobytes()).hexdigest() for image in images],
        }
        for part in pl_module.modules() if self.freeze else ():
            if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
                part.eval()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *args: Any
    ) -> None:
        line = {**self.line, "loss": float(outputs["loss"])}
        with self.path.open("a") as stream:
            stream.write(json.dumps(line) + "\n")


def install(fault: Fault | None, record: str | None, freeze: bool) -> None:
    """Put the fault and the recorder where this process will meet them."""
    build = runs.build_trainer

    def build_trainer(*args: Any) -> pl.Trainer:
        trainer = build(*args)
        if record is not None:  # also what freezes
            trainer.callbacks.insert(0, Recorder(record, freeze))
        if fault is not None and fault.place.startswith("on_"):
            trainer.callbacks.insert(len(trainer.callbacks) if fault.late else 0, killer(fault))
        return trainer

    runs.build_trainer = build_trainer
    if fault is not None and fault.place == WRITE:
        tear_checkpoint(fault)
    elif fault is not None:
        watch_files(fault)


def be_rank(request: dict[str, Any], rank: int, port: int) -> NoReturn:
    """In the forked process: become one rank of a start, to the end."""
    os.setsid()
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for number, descriptor in enumerate((os.open(os.devnull, os.O_RDONLY), log, log)):
        os.dup2(descriptor, number)
    size = request["ranks"]
    if size > 1:
        os.environ.update(
            TORCHELASTIC_RUN_ID="zygote", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
            RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), LOCAL_WORLD_SIZE=str(size),
        )  # fmt: skip
    fault = Fault(**request["fault"]) if request["fault"] else None
    record = request["record"] and f"{request['record']}.{rank}"
    mine = fault is not None and fault.rank in (rank, EVERY)
    install(fault if mine else None, record, request["freeze"])
    sys.exit(main(request["arguments"]))


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
    """Start a run once, and see its ranks to their end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    pids = []
    for rank in range(request["ranks"]):
        pid = os.fork()
        if not pid:
            be_rank(request, rank, port)
        pids.append(pid)
    begin = time.monotonic()
    together = bool(request["fault"]) and request["fault"]["signum"] != signal.SIGKILL
    statuses = wait(pids, request["limit"], together)
    return {"sessions": pids, "statuses": statuses, "seconds": time.monotonic() - begin}


def serve() -> None:
    """Answer requests until there are no more."""
    torch.set_num_threads(1)
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "a fork takes along only one thread"
    for line in sys.stdin:
        print(json.dumps(start(json.loads(line))), flush=True)


if __name__ == "__main__":
    serve()
