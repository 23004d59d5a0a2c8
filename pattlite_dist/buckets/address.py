"""Addresses of runs in buckets, and where they are kept on this machine."""

import hashlib
import os
import tempfile
from pathlib import Path

from pattlite_dist.errors import UserError


def joined(runs: str, name: str) -> str:
    """The address of a run in a folder of runs."""
    return f"{runs.rstrip('/')}/{name}"


def last_name(address: str) -> str:
    """The name of a run: the last part of its address.

    Raises:
        UserError: the address names a bucket and nothing in it.
    """
    bucket, _, path = address.partition("://")[2].strip("/").partition("/")
    if not bucket or not path or ".." in path.split("/"):
        raise UserError(f"{address} does not name a run; give it as {address.partition(':')[0]}://"
                        "BUCKET/FOLDER/RUN")  # fmt: skip
    return path.rpartition("/")[2]


def scratch_folder(runs: str, scratch: str | None = None) -> Path:
    """Where runs of a folder in a bucket are kept on this machine, each under its name.

    Args:
        runs: address of the folder.
        scratch: of all such; default: `pattlite/runs` among the user's caches, or without a home a
            temporary folder.
    """
    key = hashlib.sha256(runs.rstrip("/").encode()).hexdigest()[:12]
    return (Path(scratch) if scratch else _caches()) / key


def _caches() -> Path:
    given = os.environ.get("XDG_CACHE_HOME")
    home = os.environ.get("HOME")
    base = Path(given) if given else Path(home) / ".cache" if home else None
    if base is not None and _writable(base):
        return base / "pattlite" / "runs"
    return Path(tempfile.gettempdir()) / f"pattlite-runs-{os.getuid()}"


def _writable(folder: Path) -> bool:
    first = next(one for one in (folder, *folder.parents) if one.exists())
    return os.access(first, os.W_OK)
