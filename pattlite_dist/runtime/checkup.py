"""What a node is asked before it trains: checks that each say what is wrong, or None."""

import contextlib
import errno
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOM = 16 << 20  # free bytes that a local folder has
_TOKEN = ".probe-"  # of files in the run folder
_SIZE = 128  # of the matrices
_AGAIN = 0.1  # seconds until the token is looked for again, which a network may bring late
_LATE = 5.0
_FULL = (errno.ENOSPC, errno.EDQUOT)


def check_device(device: Any) -> str | None:
    """Whether a device multiplies two matrices rightly."""
    import torch

    rows, columns = torch.arange(_SIZE).unsqueeze(1), torch.arange(_SIZE)
    left, right = (3 * rows + 5 * columns) % 7 - 3, (2 * rows + 11 * columns) % 7 - 3
    try:
        # Without a library's product: cuBLAS would take its settings now, before they are made.
        # Small whole numbers are exact in any order of the sums.
        one, other = left.to(device, torch.float32), right.to(device, torch.float32)
        found = (one.unsqueeze(2) * other).sum(1).cpu()
    except RuntimeError as error:
        return f"{device} does not compute ({str(error).splitlines()[0]})"
    wrong = int((found != left @ right).sum())
    return f"{device} computes wrongly: {wrong} of {_SIZE**2} products" if wrong else None


def check_folder(run: Path, token: str | None, node: str) -> str | None:
    """Whether this node sees what rank 0 has written into the run folder, and can write there.

    Args:
        run: folder.
        token: name of rank 0's file, whose content is its name; None if it could not write it.
        node: name of this one.
    """
    try:
        if token is not None and not _sees(run / token):
            return f"its {run} is not the folder that rank 0 writes to"
        with tempfile.TemporaryFile(dir=run, prefix=f"{_TOKEN}{node}-") as stream:
            stream.write(b"\0" * 4096)
            stream.flush()
    except OSError as error:
        if error.errno in _FULL:  # which every node finds; saving tells of it, and tries again
            return None
        return f"cannot write {run}: {error.strerror or error}"
    return None


def _sees(path: Path) -> bool:
    end = time.monotonic() + _LATE
    while True:
        with contextlib.suppress(FileNotFoundError):
            if path.read_text() == path.name:
                return True
        if time.monotonic() > end:
            return False
        time.sleep(_AGAIN)


def check_room(folders: Mapping[str, Path | None]) -> str | None:
    """Whether local folders have room.

    Args:
        folders: by what they are to the user; one that does not exist yet is looked at above.
    """
    for name, folder in folders.items():
        place = folder
        while place is not None and not place.exists() and place != place.parent:
            place = place.parent
        if place is None:
            continue
        try:
            free = shutil.disk_usage(place).free
        except OSError as error:
            return f"{name}={folder} cannot be read: {error.strerror or error}"
        if free < ROOM:
            return f"{name}={folder} has {free >> 20} MB left"
    return None


def check_temporary(env: Mapping[str, str] = os.environ) -> str | None:
    """Whether the folder for temporary files is one that can be written."""
    folder = env.get("TMPDIR")
    if not folder:
        return None
    try:
        with tempfile.TemporaryFile(dir=folder) as stream:
            stream.write(b"\0" * 4096)
            stream.flush()
    except OSError as error:
        return f"TMPDIR={folder} cannot be written: {error.strerror or error}"
    return None


def write_token(run: Path) -> tuple[str | None, float | None]:
    """Write rank 0's file; its name, and by how many seconds its server's clock is ahead."""
    try:
        for left in run.glob(f"{_TOKEN}*"):  # of a start that was killed
            left.unlink(missing_ok=True)
        path = run / f"{_TOKEN}{time.time_ns()}"
        path.write_text(path.name)
        return path.name, path.stat().st_mtime - time.time()
    except OSError:  # which the check of the folder finds as well
        return None, None
