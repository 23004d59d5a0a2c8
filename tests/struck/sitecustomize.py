"""Faults inside the ranks of `tests.soak`: each looks for a file that asks it to fail.

Python imports this by its name, wherever this folder is in PYTHONPATH.
"""

import ctypes
import errno
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any


class Stale(OSError):
    """A file whose server has forgotten it; raised without arguments, as C does it here."""

    def __init__(self) -> None:
        super().__init__(errno.ESTALE, os.strerror(errno.ESTALE))


RAISED = {"stale": Stale, "memory": MemoryError}


def watch(asked: Path, main: int) -> None:
    """Raise in the main thread what a file asks for, wherever that thread is."""
    while True:
        time.sleep(0.05)
        if asked.exists():
            kind = asked.read_text()
            asked.unlink()
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(main), ctypes.py_object(RAISED[kind])
            )


def fill(full: Path) -> None:
    """Let no checkpoint be begun while a file says that the disk is full."""

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event != "open" or isinstance(args[0], int) or not (args[2] or 0) & os.O_CREAT:
            return
        path = os.fsdecode(args[0])
        if "/checkpoints/" in path and full.exists():
            full.with_name("met").touch()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    sys.addaudithook(hook)


if "SOAK" in os.environ and "RANK" in os.environ:
    _folder = Path(os.environ["SOAK"])
    fill(_folder / "full")
    threading.Thread(
        target=watch,
        args=(_folder / f"raise-{os.environ['RANK']}", threading.get_ident()),
        daemon=True,
    ).start()
