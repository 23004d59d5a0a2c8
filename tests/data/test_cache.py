import logging
import mmap
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from pattlite_dist.data.cache import Bytes, Cache
from pattlite_dist.data.reader import Gathered
from pattlite_dist.errors import UserError
from pattlite_dist.shards.tario import Block
from tests.conftest import ROOT, on_small_disk
from tests.data.conftest import ShardSet, assert_is

SIZE, ENTRY = 1000, 1024  # bytes of a payload here, and of its entry


def key(number: int) -> str:
    return f"{number:064x}"


def payload(number: int) -> Bytes:
    return np.full(SIZE, number, np.uint8)


def never() -> Bytes:
    raise AssertionError("made though it was there")


def content(pages: mmap.mmap | None) -> set[int]:
    assert pages is not None
    return set(pages[:SIZE])


def entries(folder: Path) -> list[int]:
    return sorted(int(path.stem, 16) for path in folder.glob("*.block"))


def fill(cache: Cache, *numbers: int) -> None:
    for number in numbers:
        assert content(cache.open(key(number), SIZE, lambda n=number: payload(n))) == {number}  # type: ignore[misc]
        time.sleep(0.02)  # file times may be as coarse as the kernel's tick


def test_an_entry_is_made_once_and_found_again(tmp_path: Path) -> None:
    fill(Cache(tmp_path), 3)
    assert content(Cache(tmp_path).open(key(3), SIZE, never)) == {3}
    assert (tmp_path / f"{key(3)}.block").stat().st_size == ENTRY


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def zeroed(data: bytes) -> bytes:  # what a file system can leave of a lost file
    return bytes(len(data))


def flipped(data: bytes) -> bytes:
    return data[:500] + bytes([data[500] ^ 1]) + data[501:]


def other_version(data: bytes) -> bytes:
    return data.replace(b"pattblk2", b"pattblk1")


@pytest.mark.parametrize(
    "damage", [half, zeroed, flipped, other_version, lambda d: b"", lambda d: d + b"x"]
)
def test_a_stale_or_half_written_entry_is_made_again(
    damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    fill(Cache(tmp_path), 3)
    path = tmp_path / f"{key(3)}.block"
    path.write_bytes(damage(path.read_bytes()))
    fill(Cache(tmp_path), 3)
    assert content(Cache(tmp_path).open(key(3), SIZE, never)) == {3}


def test_an_entry_of_another_size_is_made_again(tmp_path: Path) -> None:
    fill(Cache(tmp_path), 3)
    pages = Cache(tmp_path).open(key(3), 10, lambda: np.full(10, 9, np.uint8))
    assert set(pages[:10]) == {9}


def test_the_entries_opened_longest_ago_make_room(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit=3 * ENTRY)
    fill(cache, 1, 2, 3)
    Cache(tmp_path).open(key(1), SIZE, never)
    fill(cache, 4)
    assert entries(tmp_path) == [1, 3, 4]
    fill(cache, 5, 6)
    assert entries(tmp_path) == [4, 5, 6]


def test_what_is_mapped_stays_readable_after_it_was_evicted(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit=ENTRY)
    pages = cache.open(key(1), SIZE, lambda: payload(1))
    fill(cache, 2)
    assert entries(tmp_path) == [2]
    assert content(pages) == {1}


def test_a_cache_smaller_than_a_window_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(Cache(tmp_path, limit=2 * ENTRY), 1, 2)
    cache = Cache(tmp_path, limit=2 * ENTRY)
    with caplog.at_level(logging.WARNING):
        fill(cache, 3, 4)  # an earlier run's entries are deleted without a warning
        assert not caplog.records
        fill(cache, 5, 6)
    (record,) = caplog.records
    assert "raise data.cache_gb or lower data.window" in record.getMessage()


def test_an_entry_above_the_limit_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"takes 1,024 bytes .* 1,000; raise data.cache_gb"):
        fill(Cache(tmp_path, limit=1000), 1)


# A separate disk of 64 KiB, which the child fills with foreign bytes and entries.
_FULL = """
import contextlib, pathlib, sys
import numpy as np
from pattlite_dist.data.cache import Cache
from pattlite_dist.errors import UserError
folder = pathlib.Path(sys.argv[1])
size = 12_000
def fill(number, **settings):
    payload = np.full(size, number, np.uint8)
    pages = Cache(folder / "cache", **settings).open(f"{number:064x}", size, lambda: payload)
    assert set(pages[:size]) == {number}
def fill_disk(name):
    with open(folder / name, "wb", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(bytes(4096))
def there():
    return sorted(int(path.stem, 16) for path in (folder / "cache").glob("*.block"))
for number in range(3):
    fill(number, limit=10**9)
fill_disk("foreign")
fill(7, limit=10**9)  # within the limit, but the disk is full: the oldest is deleted
print("evicted", there())
for path in (folder / "cache").glob("*.block"):
    path.unlink()
fill_disk("foreign2")
for settings in ({"limit": 10**9}, {}):
    try:
        fill(8, **settings)
    except UserError as error:
        print("refused", error)
print("left", there(), list(folder.glob("cache/.*.tmp")))
"""


def test_on_a_full_disk_older_entries_make_room_and_without_any_it_is_the_users_error(
    tmp_path: Path,
) -> None:
    done = on_small_disk(tmp_path, _FULL)
    assert done.returncode == 0, done.stderr
    evicted, full, small, left = done.stdout.splitlines()
    assert evicted == "evicted [1, 2, 7]"
    assert "cannot write" in full
    assert "No space left on device" in full
    assert "set data.cache to a larger disk" in small
    assert left == "left [] []"


@pytest.mark.parametrize("left", [0, 1, -1])
def test_a_cut_off_cache_entry_is_made_again(
    shard_set: ShardSet, tmp_path: Path, decoded: list[str], left: int
) -> None:
    ids = np.arange(16)
    shard_set.reader("train", tmp_path).gather(ids)
    (entry,) = tmp_path.glob("*.block")
    entry.write_bytes(entry.read_bytes()[:left])
    assert_is(shard_set.reader("train", tmp_path).gather(ids), shard_set.truth["train"], ids)
    assert decoded == ["train-000000.tar"] * 2


def test_a_cache_that_cannot_be_used_is_the_users_error(
    shard_set: ShardSet, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    # Root can write anywhere, so a folder in place of the lock file simulates an unwritable one.
    bucket = shard_set.manifest.shards["train"][0].sha256[:2]
    (tmp_path / "locks" / f"{bucket}.lock").mkdir(parents=True)
    for cache in (tmp_path / "file", tmp_path / "file" / "below", tmp_path):
        with pytest.raises(UserError, match=r"cannot use the cache folder .*set data\.cache"):
            shard_set.reader("train", cache).gather(np.array([0]))


# Runs as a separate process. Decoding is slowed down, so that the processes meet at the lock.
_CHILD = """
import pathlib, sys, time
import numpy as np
from pattlite_dist.data import reader as module
from pattlite_dist.data.cache import Cache
from pattlite_dist.data.fetch import Origin, fetch_manifest
root, cache, ready, go, log, result = map(pathlib.Path, sys.argv[1:])
origin = Origin(str(root))
reader = module.ShardReader(origin, fetch_manifest(origin), "train", Cache(cache))
decode = module.decode_shard
def slow(data, shard, image, where, soft):
    with log.open("a") as stream:
        stream.write(shard.name + "\\n")
    time.sleep(0.3)
    return decode(data, shard, image, where, soft)
module.decode_shard = slow
ready.touch()
while not go.exists():
    time.sleep(0.002)
block = reader.gather(np.arange(32)).block
np.savez(result, images=block.images, labels=block.labels, flags=block.flags)
"""


def test_processes_that_want_the_same_shard_decode_it_once_and_all_get_it_right(
    shard_set: ShardSet, tmp_path: Path
) -> None:
    go, log = tmp_path / "go", tmp_path / "log"
    ready = [tmp_path / f"ready{i}" for i in range(2)]
    results = [tmp_path / f"result{i}.npz" for i in range(2)]
    children = [
        subprocess.Popen(
            [sys.executable, "-c", _CHILD]
            + [str(p) for p in (shard_set.folder, tmp_path / "cache", mark, go, log, result)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )
        for mark, result in zip(ready, results, strict=True)
    ]
    deadline = time.monotonic() + 120
    while not all(mark.exists() for mark in ready) and time.monotonic() < deadline:
        time.sleep(0.01)
    go.touch()
    assert [child.wait(120) for child in children] == [0, 0]
    for result in results:
        with np.load(result) as arrays:
            block = Block(arrays["images"], arrays["labels"], arrays["flags"])
        assert_is(Gathered(block, np.ones(32, bool)), shard_set.truth["train"], np.arange(32))
    assert sorted(log.read_text().split()) == ["train-000000.tar", "train-000001.tar"]


# Stops forever in the middle of writing an entry, like a job that is killed there.
_STUCK = """
import contextlib, pathlib, sys, time
import numpy as np
from pattlite_dist.data import cache, room
folder = pathlib.Path(sys.argv[1])
real = room.Room.entry
@contextlib.contextmanager
def slow(self, path, need):
    with real(self, path, need) as stream:
        stream.write(b"half")
        stream.flush()
        print("writing", flush=True)
        time.sleep(600)
        yield stream
room.Room.entry = slow
cache.Cache(folder).open(f"{0x05:02x}" + "0" * 62, 10, lambda: np.zeros(10, np.uint8))
"""


def test_what_a_killed_job_left_is_removed_and_a_living_ones_is_not(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", _STUCK, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline() == "writing\n"
        fill(Cache(tmp_path), 1)  # in another bucket
        assert len(list(tmp_path.glob(".*.tmp"))) == 1
        child.send_signal(signal.SIGKILL)
        assert child.wait(60) == -signal.SIGKILL
    fill(Cache(tmp_path), 2)
    assert not list(tmp_path.glob(".*.tmp"))
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"locks", f"{key(1)}.block", f"{key(2)}.block"}


def test_the_lock_files_are_few(shard_set: ShardSet, tmp_path: Path) -> None:
    fill(Cache(tmp_path), *range(16))  # all in bucket 00
    assert {path.name for path in (tmp_path / "locks").iterdir()} == {
        "00.lock", "room.lock", "taken",
    }  # fmt: skip
    with FileLock(tmp_path / "locks" / "00.lock"):  # held by a process that is making another entry
        assert content(Cache(tmp_path).open(key(3), SIZE, never)) == {3}  # reading needs no lock


def test_a_cache_that_is_removed_under_a_run_is_made_again(
    shard_set: ShardSet, tmp_path: Path
) -> None:
    reader, ids = shard_set.reader("train", tmp_path / "cache"), np.arange(100)
    reader.gather(ids[:20])
    shutil.rmtree(tmp_path / "cache")
    assert_is(reader.gather(ids), shard_set.truth["train"], ids)
