import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import Timeout

from pattlite_dist.data.cache import Cache
from pattlite_dist.errors import UserError
from pattlite_dist.runtime.locks import file_lock, has_locks
from pattlite_dist.shards.target import open_target
from pattlite_dist.shards.working import working
from pattlite_dist.tracking.lock import RunLock, taken

# NFS without its lock daemon, Lustre mounted without locks, DVS, FUSE; 524 has no name.
UNSUPPORTED = [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, 524]


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Have every attempt to lock end with an error."""

    def set_up(number: int) -> None:
        def refuse(*_: Any) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", refuse)
        monkeypatch.setattr(fcntl, "lockf", refuse)

    return set_up


def test_a_lock_keeps_others_out_and_is_given_back(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    for _ in range(2):
        with file_lock(path, "") as held:
            assert held
            with pytest.raises(Timeout), file_lock(path, "", timeout=0):
                pass


@pytest.mark.parametrize("number", UNSUPPORTED)
def test_without_locks_work_goes_on_and_says_so_once(
    number: int, fail: Callable[[int], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fail(number)
    for _ in range(2):
        with file_lock(tmp_path / "lock", "start no second one") as held:
            assert not held
    told = capsys.readouterr().err
    assert told.startswith(f"pattlite: note: {tmp_path}: this file system has no locks (")
    assert told.endswith("); start no second one\n") and told.count("\n") == 1
    assert "524" not in told


def test_trying_for_locks_leaves_nothing_behind(tmp_path: Path) -> None:
    assert has_locks(tmp_path, "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", UNSUPPORTED)
def test_a_run_a_new_set_and_the_cache_all_go_on(
    number: int, fail: Callable[[int], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fail(number)
    lock = RunLock(tmp_path / "run")
    lock.acquire()
    assert lock.held and lock.holder()["pid"] == os.getpid()
    assert taken(tmp_path / "run") is None
    lock.release()
    target = open_target(tmp_path / "set")
    with working(target, target.work()):
        assert (tmp_path / "set" / ".creating").is_dir()
    unfinished = tmp_path / "cache" / f".{'0' * 64}.block.x.tmp"
    unfinished.parent.mkdir()
    unfinished.touch()
    cache = Cache(tmp_path / "cache")
    pages = cache.open("0" * 64, 3, lambda: __import__("numpy").full(3, 7, "u1"))
    assert pages[:3] == bytes([7, 7, 7])
    assert unfinished.exists(), "another process may be writing it"
    assert capsys.readouterr().err.count("this file system has no locks") == 3


def test_another_error_of_a_runs_lock_is_the_users_to_see(
    fail: Callable[[int], None], tmp_path: Path
) -> None:
    fail(errno.EIO)
    lock = RunLock(tmp_path)
    with pytest.raises(UserError, match=r"^cannot lock .*run\.lock: .*; try again"):
        lock.acquire()
    assert not lock.held
