"""What control groups allow, in folders that stand for `/proc` and `/sys` of many containers."""

import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pattlite_dist.data.room import Locks, Room
from pattlite_dist.errors import UserError
from pattlite_dist.runtime import limits
from pattlite_dist.runtime.limits import cores, fewer_cores, limit_threads, memory, quota
from tests.conftest import environment

MACHINE = 64 << 30  # bytes
UNLIMITED = "9223372036854771712"  # of version 1
V2 = "30 1 0:26 {root} /sys/fs/cgroup rw - cgroup2 cgroup rw\n"
V1 = (
    "31 1 0:27 {root} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "32 1 0:28 {root} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "33 1 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n"
)


@pytest.fixture(autouse=True)
def _sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))


def machine(root: Path, membership: str, table: str, **files: str) -> Path:
    """A root whose `/sys/fs/cgroup` has these files."""
    content = {
        "proc/self/cgroup": membership,
        "proc/self/mountinfo": "22 1 259:2 / / rw - ext4 /dev/sda rw\ncut off\n" + table,
        "proc/meminfo": f"MemTotal:       {MACHINE // 1024} kB\nMemFree: 1 kB\n",
        **{f"sys/fs/cgroup/{name}": text for name, text in files.items()},
    }
    for name, text in content.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


def two(root: Path, path: str, mounted: str = "/", **files: str) -> Path:
    """A machine with version 2."""
    return machine(root, f"0::{path}", V2.format(root=mounted), **files)


def one(root: Path, path: str, mounted: str = "/", **files: str) -> Path:
    """A machine with version 1, and an empty version 2 beside it."""
    lines = f"4:memory:{path}\n3:cpu,cpuacct:{path}\n1:name=systemd:/elsewhere\n0::/"
    empty = "34 1 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    return machine(root, lines, V1.format(root=mounted) + empty, **files)


def test_this_machine_is_read_like_any_other() -> None:
    assert 1 <= cores() <= 16
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < (memory() or 0) <= whole


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("max 100000", None), ("-1 100000", None), ("50000 100000", 0.5), ("250000 100000", 2.5),
        ("20000 10000", 2), ("", None), ("0 100000", None), ("100000 0", None), ("100000", None),
        ("1e5 100000", None), ("٣ 1", None),
    ],
)  # fmt: skip
def test_a_quota_is_a_share_of_its_period(text: str, found: float | None) -> None:
    assert quota(text) == found


# Paths as each says them, what is mounted, and the folder of the limit; True: it is seen.
CASES = [
    ("/", "/", "", True),  # a container with its own view
    ("/docker/ab", "/docker/ab", "", True),  # one that is told its group by the host's names
    ("/docker/ab", "/", "docker/ab", True),  # the host
    ("/docker/ab", "/", "docker", True),
    ("/docker/ab/job/step", "/docker/ab", "job", True),
    ("/docker/ab", "/", "docker/abc", False),  # of others
    ("/docker/ab", "/", "docker/ab/below", False),
    ("/docker/ab", "/docker/a", "", False),
    ("/../../else", "/", "", True),  # moved out of its view: what it sees is around it
    ("/", "/..", "", True),
    ("/gone/since", "/", "gone", True),
]


@pytest.mark.parametrize(("path", "mounted", "folder", "seen"), CASES)
def test_the_limits_of_all_groups_around_a_process_count(
    path: str, mounted: str, folder: str, seen: bool, tmp_path: Path
) -> None:
    inside = f"{folder}/" if folder else ""
    second = two(tmp_path / "2", path, mounted, **{
        f"{inside}cpu.max": "150000 100000", f"{inside}memory.max": f"{1 << 30}",
    })  # fmt: skip
    first = one(tmp_path / "1", path, mounted, **{
        f"cpu,cpuacct/{inside}cpu.cfs_quota_us": "150000",
        f"cpu,cpuacct/{inside}cpu.cfs_period_us": "100000",
        f"memory/{inside}memory.limit_in_bytes": f"{1 << 30}",
    })  # fmt: skip
    for root in (first, second):
        assert cores(root) == (2 if seen else 16)
        assert memory(root) == (1 << 30 if seen else MACHINE)


def test_without_limits_the_affinity_and_the_machine_count(tmp_path: Path) -> None:
    unlimited = [
        machine(tmp_path / "none", "", ""),
        two(tmp_path / "2", "/a", **{"a/cpu.max": "max 100000", "a/memory.max": "max"}),
        two(tmp_path / "more", "/a", **{"a/cpu.max": "9999999 100000", "memory.max": UNLIMITED}),
        one(tmp_path / "1", "/a", **{
            "cpu,cpuacct/a/cpu.cfs_quota_us": "-1", "cpu,cpuacct/a/cpu.cfs_period_us": "100000",
            "memory/a/memory.limit_in_bytes": UNLIMITED,
        }),
    ]  # fmt: skip
    for root in unlimited:
        assert (cores(root), fewer_cores(root), memory(root)) == (16, None, MACHINE)
    assert (cores(tmp_path / "empty"), memory(tmp_path / "empty")) == (16, None)


@given(
    st.lists(st.none() | st.integers(1, 2_000_000), min_size=1, max_size=4),
    st.lists(st.none() | st.integers(1 << 20, 1 << 40), min_size=4, max_size=4),
    st.integers(0, 3),
    st.booleans(),
)
def test_the_least_of_the_groups_that_are_seen_counts(
    quotas: list[int | None], sizes: list[int | None], hidden: int, unified: bool
) -> None:
    """Groups within each other, of which the outer ones may be out of sight."""
    hidden = min(hidden, len(quotas) - 1)
    names = [f"g{number}" for number in range(1, len(quotas))]
    path, mounted = "/" + "/".join(names), "/" + "/".join(names[:hidden])
    files = {}
    for depth, (used, size) in list(enumerate(zip(quotas, sizes, strict=False)))[hidden:]:
        inside = "".join(f"{name}/" for name in names[hidden:depth])
        if unified:
            files[f"{inside}cpu.max"] = f"{used or 'max'} 100000"
            files[f"{inside}memory.max"] = f"{size or 'max'}"
        else:
            files[f"cpu,cpuacct/{inside}cpu.cfs_quota_us"] = f"{used or -1}"
            files[f"cpu,cpuacct/{inside}cpu.cfs_period_us"] = "100000"
            files[f"memory/{inside}memory.limit_in_bytes"] = f"{size or UNLIMITED}"
    with tempfile.TemporaryDirectory() as folder:
        root = (two if unified else one)(Path(folder), path, mounted, **files)
        seen = [math.ceil(Fraction(used, 100_000)) for used in quotas[hidden:] if used]
        assert cores(root) == min([16, *seen])
        given_sizes = [size for size in sizes[hidden : len(quotas)] if size]
        assert memory(root) == min([MACHINE, *given_sizes])


def test_a_quota_limits_the_threads_of_libraries_unless_the_user_does(tmp_path: Path) -> None:
    small = two(tmp_path / "small", "/", **{"cpu.max": "120000 100000"})
    whole = two(tmp_path / "whole", "/", **{"cpu.max": "max 100000"})
    env: dict[str, str] = {}
    limit_threads(env, whole)
    assert env == {}
    limit_threads(env, small)
    assert env == {"OMP_NUM_THREADS": "2"}
    env["OMP_NUM_THREADS"] = "7"
    limit_threads(env, small)
    assert env == {"OMP_NUM_THREADS": "7"}


def test_a_cache_in_memory_takes_half_of_what_the_process_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tmpfs has room for half of the machine's memory; filled, the container would be killed."""
    monkeypatch.setattr(limits, "memory", lambda: 2000)
    for kept, most in ((False, None), (True, 1000)):
        monkeypatch.setattr(limits, "in_memory", lambda folder, kept=kept: kept)
        assert limits.share_of_memory(tmp_path) == most
    room = Room(Locks(tmp_path), None)
    for number in range(4):
        with room.entry(tmp_path / f"{number:04x}.block", 400):
            pass
    assert len(list(tmp_path.glob("*.block"))) == 2
    with pytest.raises(UserError, match=r"is limited to 1,000; raise data\.cache_gb"):
        room.entry(tmp_path / "ffab.block", 1001).__enter__()


# What limits a group to one core and 512 MiB, by controller and version.
ONE_CORE = {
    "cpu": {1: {"cpu.cfs_quota_us": "100000"}, 2: {"cpu.max": "100000 100000"}},
    "memory": {1: {"memory.limit_in_bytes": f"{1 << 29}"}, 2: {"memory.max": f"{1 << 29}"}},
}
IN_GROUP = """
import os
from pattlite_dist.runtime.limits import cores, limit_threads, memory
limit_threads()
print(cores(), memory(), os.environ["OMP_NUM_THREADS"])
"""


def make_small(controller: str, name: str) -> Path:
    """A group of the kernel's own with limits; returns one within it."""
    texts = [Path("/proc/self", file).read_text() for file in ("cgroup", "mountinfo")]
    *_, (top, unified) = (
        (Path(place), unified)
        for place, unified in limits.groups(controller, *texts)
        if not unified or controller in Path(place, "cgroup.controllers").read_text().split()
    )
    if unified:
        (top / "cgroup.subtree_control").write_text(f"+{controller}")
    inner = top / name / "inner"
    inner.mkdir(parents=True, exist_ok=True)
    for file, text in ONE_CORE[controller][2 if unified else 1].items():
        (inner.parent / file).write_text(text)
    return inner


@pytest.fixture
def small_groups() -> Iterator[list[Path]]:
    made: list[Path] = []
    try:
        for controller in ONE_CORE:
            made.append(make_small(controller, f"pattlite-test-{os.getpid()}"))
    except (OSError, ValueError) as error:
        pytest.skip(f"control groups cannot be made here ({error}); run as root of the machine")
    yield made
    for inner in dict.fromkeys(made):
        inner.rmdir()
        inner.parent.rmdir()


def test_the_limits_of_real_groups_are_found(small_groups: list[Path]) -> None:
    join = 'for group; do [ "$group" = -- ] && break; echo $$ >"$group/cgroup.procs"; shift; done'
    env = {name: text for name, text in environment().items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        ["sh", "-ec", f'{join}; shift; exec "$@"', "sh", *small_groups, "--",
         sys.executable, "-c", IN_GROUP],
        env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["1", f"{1 << 29}", "1"], done.stderr


def test_the_number_of_cores_is_printed_for_scripts() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pattlite_dist.runtime.limits"],
        env=environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(done.stdout) >= 1
