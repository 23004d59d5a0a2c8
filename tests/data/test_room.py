import os
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pattlite_dist.data import room as module
from pattlite_dist.data.cache import Cache
from pattlite_dist.data.room import Locks, Room
from pattlite_dist.errors import UserError
from tests.data.test_cache import ENTRY, SIZE, content, entries, fill, key, payload


def sizes(folder: Path) -> int:
    """Bytes of all entries, finished or not."""
    total = 0
    for file in os.scandir(folder):
        try:
            if file.name.endswith((".block", ".tmp")):
                total += file.stat().st_size
        except FileNotFoundError:
            continue
    return total


def noted(folder: Path) -> int:
    return int((folder / "locks" / "taken").read_text())


def in_bucket(number: int) -> str:
    """A key whose bucket is its own."""
    return f"{number:02x}{number:062x}"


def test_many_processes_together_keep_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PAUSE", 0.001)
    (tmp_path / "locks").mkdir(mode=0o700)
    limit, most, going = 3 * ENTRY, [0], [True]

    def rank(number: int) -> None:  # each with a cache of its own, as a process has
        cache = Cache(tmp_path, limit)
        for i in range(number * 6, number * 6 + 6):
            pages = cache.open(in_bucket(i), SIZE, lambda i=i: payload(i))  # type: ignore[misc]
            assert content(pages) == {i}

    def watch() -> None:
        while going:
            with Locks(tmp_path).hold("room"):  # while an entry is finished it may have both names
                keys = {path.name.lstrip(".").partition(".")[0] for path in tmp_path.iterdir()}
            most.append(ENTRY * len(keys - {"locks"}))
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(rank, range(6)))
    going.clear()
    watcher.join()
    assert 2 * ENTRY <= max(most) <= limit
    assert noted(tmp_path) == sizes(tmp_path) == limit


def test_what_others_are_writing_counts_and_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    def finish(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            other.__exit__(None, None, None)

    monkeypatch.setattr(module.time, "sleep", finish)
    first = Room(Locks(tmp_path), ENTRY)
    with Locks(tmp_path).hold("aa"):
        other = first.entry(tmp_path / "aa.block", ENTRY)
        other.__enter__()
        assert sizes(tmp_path) == ENTRY  # before its first byte
        cache = Cache(tmp_path, ENTRY)
        assert content(cache.open(in_bucket(1), SIZE, lambda: payload(1))) == {1}
    assert len(slept) == 3
    assert [path.name for path in tmp_path.glob("*.block")] == [f"{in_bucket(1)}.block"]


def test_what_a_killed_process_was_writing_is_not_waited_for(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 2 * ENTRY)
    fill(cache, 1)
    (tmp_path / ".aa.block.0123.tmp").write_bytes(bytes(2 * ENTRY))
    (tmp_path / "locks" / "taken").unlink()  # so that it is counted
    fill(cache, 2)
    assert entries(tmp_path) == [2]
    assert not list(tmp_path.glob(".*.tmp"))


def test_an_entry_that_could_not_be_written_takes_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path, 2 * ENTRY)
    fill(cache, 1)

    def full(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="Input/output error"):
            cache.open(key(2), SIZE, lambda: payload(2))
    assert noted(tmp_path) == sizes(tmp_path) == ENTRY
    fill(cache, 2)
    assert entries(tmp_path) == [1, 2]


def test_a_damaged_entry_is_replaced_and_counted_once(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 2 * ENTRY)
    fill(cache, 1, 2)
    (tmp_path / f"{key(2)}.block").write_bytes(bytes(ENTRY))
    fill(Cache(tmp_path, 2 * ENTRY), 2)
    assert entries(tmp_path) == [1, 2]
    assert noted(tmp_path) == 2 * ENTRY


@pytest.mark.parametrize("number", [b"", b"much", b"999999999", None])
def test_a_number_that_is_lost_or_wrong_is_counted_anew(
    tmp_path: Path, number: bytes | None
) -> None:
    cache = Cache(tmp_path, 3 * ENTRY)
    fill(cache, 1, 2)
    (tmp_path / f"{key(1)}.block").unlink()  # by hand
    file = tmp_path / "locks" / "taken"
    file.unlink() if number is None else file.write_bytes(number)
    fill(cache, 3)
    assert entries(tmp_path) == [2, 3]
    assert noted(tmp_path) == 2 * ENTRY


def test_a_long_run_counts_the_folder_seldom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[str] = []
    scan = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: counts.append(str(folder)) or scan(folder))
    cache = Cache(tmp_path, 8 * ENTRY)
    for number in range(8 * 4):
        cache.open(key(number), SIZE, lambda: payload(0))
    assert sum(name == str(tmp_path) for name in counts) <= 2 * 5
    assert entries(tmp_path) == list(range(24, 32))


def test_a_room_may_be_handed_to_another_process(tmp_path: Path) -> None:
    fill(pickle.loads(pickle.dumps(Cache(tmp_path, ENTRY))), 1)
    assert entries(tmp_path) == [1]


def test_who_waits_for_a_lock_says_so_or_does_not_wait(tmp_path: Path) -> None:
    with Locks(tmp_path).hold(key(1)[:2]):
        begin = time.monotonic()
        assert Cache(tmp_path).open(key(1), SIZE, lambda: payload(1), wait=False) is None
        assert time.monotonic() - begin < 5
    assert content(Cache(tmp_path).open(key(1), SIZE, lambda: payload(1), wait=False)) == {1}
