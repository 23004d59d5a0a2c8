"""The cores and the memory that this process may use, under the limits of its control groups.

A container's limits are those of control groups (cgroups(7)). Neither the affinity nor what the
system says of its memory knows of them: a process that trusts those in a container with two cores
of 64 starts 64 threads, each of which is stopped most of the time.

`python -m pattlite_dist.runtime.limits` prints the number of cores.
"""

import contextlib
import math
import os
import re
from collections.abc import Iterator, MutableMapping
from pathlib import Path, PurePosixPath

from pattlite_dist.runtime.mounts import Mount, in_memory, mounts

_ROOT = Path("/")
# By controller: the files of a group that have its limits, of version 2 and of version 1.
_FILES = {
    "cpu": (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]),
    "memory": (["memory.max"], ["memory.limit_in_bytes"]),
}


def cores(root: Path = _ROOT) -> int:
    """The cores that this process may use: of its affinity, no more than its CPU quota, rounded up.

    Args:
        root: where `proc` and what it names are.
    """
    allowed = len(os.sched_getaffinity(0))
    return min([allowed, *map(math.ceil, filter(None, map(quota, _limits("cpu", root))))])


def fewer_cores(root: Path = _ROOT) -> int | None:
    """The cores that this process may use, if its affinity shows more; else None."""
    allowed = cores(root)
    return allowed if allowed < len(os.sched_getaffinity(0)) else None


def limit_threads(env: MutableMapping[str, str] = os.environ, root: Path = _ROOT) -> None:
    """Have libraries start as many threads as the CPU quota allows, unless the user says otherwise.

    To be called before they are imported. Without a quota, nothing is changed.
    """
    allowed = None if "OMP_NUM_THREADS" in env else fewer_cores(root)
    if allowed is not None:
        env["OMP_NUM_THREADS"] = str(allowed)


def memory(root: Path = _ROOT) -> int | None:
    """Bytes of memory that this process may use; None if it cannot be told.

    What others of the machine or of the same group use is not subtracted.
    """
    found = re.search(r"^MemTotal:\s*(\d+) kB$", _read(root / "proc/meminfo"), re.MULTILINE)
    whole = [int(found[1]) * 1024] if found else []
    limits = [int(text) for text in _limits("memory", root) if text.isdecimal()]
    return min([*whole, *limits], default=None)


def share_of_memory(folder: Path) -> int | None:
    """Bytes that what a folder keeps may take, if it is in memory: half of all; else None.

    A tmpfs is by default as large as half of the machine's memory, whatever a container may use.
    """
    whole = memory() if in_memory(folder) else None
    return None if whole is None else whole // 2


def quota(text: str) -> float | None:
    """Cores that a CPU quota allows; None: as many as there are.

    Args:
        text: microseconds of use, then those in which they may be used, as in `cpu.max`; the first
            is `max` in version 2, and negative in version 1, where there is no quota.
    """
    match = re.fullmatch(r"(\d+)\s+(\d+)", text, re.ASCII)
    used, period = (int(part) for part in match.groups()) if match else (0, 0)
    return used / period if used and period else None


def groups(controller: str, membership: str, table: str) -> Iterator[tuple[PurePosixPath, bool]]:
    """The folders of this process's control groups, from its own ones up to where they are mounted.

    Args:
        controller: `cpu` or `memory`.
        membership: the lines of `/proc/self/cgroup`.
        table: the lines of `/proc/self/mountinfo`.

    Returns:
        each folder, and whether it is of version 2.
    """
    known = list(mounts(table))
    for line in membership.splitlines():
        _, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if not colon or (controllers and controller not in controllers.split(",")):
            continue
        unified = not controllers
        for mount in known:
            if unified and mount.kind == "cgroup2":
                yield from ((folder, True) for folder in _upwards(mount, path))
            elif not unified and mount.kind == "cgroup" and controller in mount.options:
                yield from ((folder, False) for folder in _upwards(mount, path))


def _upwards(mount: Mount, path: str) -> Iterator[PurePosixPath]:
    """The folders of a group and of those around it, as far as they are seen at a mount."""
    top, group = PurePosixPath(mount.point), PurePosixPath(path)
    if ".." in (*group.parts, *PurePosixPath(mount.root).parts):
        # Outside of the process's own name space, so that only the top is known to be around it.
        yield top
    elif group.is_relative_to(mount.root):
        inside = group.relative_to(mount.root).parts
        for depth in range(len(inside), -1, -1):
            yield top.joinpath(*inside[:depth])


def _limits(controller: str, root: Path) -> Iterator[str]:
    """What the files of each group say, those of one joined by a blank."""
    process = root / "proc/self"
    found = groups(controller, _read(process / "cgroup"), _read(process / "mountinfo"))
    for folder, unified in found:
        one, two = _FILES[controller]
        place = root / folder.relative_to("/")
        yield " ".join(_read(place / name) for name in (one if unified else two))


def _read(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8", errors="surrogateescape").strip()
    return ""


if __name__ == "__main__":
    print(cores())
