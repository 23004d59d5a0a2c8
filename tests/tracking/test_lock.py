import contextlib
import errno
import fcntl
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pattlite_dist.errors import UserError
from pattlite_dist.tracking import lock as locks
from pattlite_dist.tracking.lock import RunLock, describe
from tests.conftest import environment, on_small_disk

HOLDER = """
import os, signal, sys, time
from pathlib import Path
from pattlite_dist.tracking.lock import RunLock
lock = RunLock(Path(sys.argv[1]))
lock.acquire()
child = 0
if sys.argv[2] == "child":
    child = os.fork()
    if not child:
        time.sleep(600)
        os._exit(0)
print(os.getpid(), child, flush=True)
sys.stdin.readline()
if sys.argv[2] == "release":
    lock.release()
    print("released", flush=True)
    time.sleep(600)
"""


class Holder:
    """Another process that holds a run folder."""

    def __init__(self, run: Path, what: str = "", job: str | None = None) -> None:
        env = {key: value for key, value in environment().items() if not key.startswith("SLURM_")}
        if job is not None:
            env["SLURM_JOB_ID"] = job
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(run), what],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        pids = self.process.stdout.readline().split()
        self.pid, self.child = (int(pid) for pid in pids)

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> None:
        if self.child:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.child, signal.SIGKILL)
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("JOB_ID", "ARRAY_JOB_ID", "ARRAY_TASK_ID"):
        monkeypatch.delenv(f"SLURM_{name}", raising=False)
    monkeypatch.setattr(locks, "_ANY_SECONDS", 0.3)
    made = []

    def start(*arguments: Any) -> Holder:
        made.append(Holder(tmp_path, *arguments))
        return made[-1]

    yield start
    for holder in made:
        holder.end()


def seconds_to_be_refused(lock: RunLock, words: str) -> float:
    begin = time.monotonic()
    with pytest.raises(UserError, match=words) as caught:
        lock.acquire()
    assert "\n" not in str(caught.value)
    assert not lock.held
    return time.monotonic() - begin


def takes(run: Path) -> None:
    lock = RunLock(run)
    lock.acquire()
    lock.release()


@pytest.mark.parametrize("job", [None, "41"])
def test_a_second_process_is_refused_and_told_about_the_first(
    tmp_path: Path, hold: Any, job: str | None
) -> None:
    first = hold("", job)
    who = f"process {first.pid} on {socket.gethostname()}"
    who = who if job is None else rf"job 41 \({who}\)"
    words = f"^{tmp_path} is being trained by {who}; wait for it, cancel it, or give"
    lock = RunLock(tmp_path)
    for _ in range(2):  # asking does not release it
        assert seconds_to_be_refused(lock, words) < 3


def test_by_default_the_second_is_refused_within_seconds() -> None:
    assert locks._ANY_SECONDS <= 5
    assert locks._OWN_JOB_SECONDS >= 30, "SLURM's KillWait, in which a former start still ends"


def test_a_folder_given_back_can_be_taken_while_its_process_lives(
    tmp_path: Path, hold: Any
) -> None:
    first = hold("release")
    first.go_on()
    assert first.process.stdout.readline() == "released\n"
    takes(tmp_path)
    assert first.process.poll() is None


def test_a_process_that_ends_gives_its_folder_back(tmp_path: Path, hold: Any) -> None:
    first = hold()
    first.go_on()
    assert first.process.wait(30) == 0
    takes(tmp_path)


def test_a_process_that_is_killed_gives_it_back_although_its_loader_process_lives(
    tmp_path: Path, hold: Any
) -> None:
    first = hold("child")
    first.process.kill()
    first.process.wait(30)
    os.kill(first.child, 0)  # it is alive
    takes(tmp_path)
    os.kill(first.child, 0)


def test_a_process_that_was_killed_a_moment_ago_is_waited_for(
    tmp_path: Path, hold: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_ANY_SECONDS", 30.0)
    first = hold()
    begin = time.monotonic()
    timer = threading.Timer(0.5, first.process.kill)
    timer.start()
    takes(tmp_path)
    timer.join()
    assert 0.4 < time.monotonic() - begin < 20


@pytest.mark.parametrize(("job", "waits"), [("41", True), ("42", False), (None, False)])
def test_only_the_former_start_of_the_same_job_is_waited_for(
    tmp_path: Path, hold: Any, monkeypatch: pytest.MonkeyPatch, job: str | None, waits: bool
) -> None:
    monkeypatch.setattr(locks, "_ANY_SECONDS", 0.0)
    monkeypatch.setattr(locks, "_OWN_JOB_SECONDS", 1.5)
    hold("", "41")
    if job is not None:
        monkeypatch.setenv("SLURM_JOB_ID", job)
    seconds = seconds_to_be_refused(RunLock(tmp_path), "trained by job 41")
    assert (seconds >= 1.5) is waits


def test_the_next_start_of_a_job_takes_over_when_the_former_has_ended(
    tmp_path: Path, hold: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_OWN_JOB_SECONDS", 60.0)
    monkeypatch.setenv("SLURM_JOB_ID", "41")
    first = hold("", "41")
    lock = RunLock(tmp_path)
    first.go_on()
    lock.acquire()
    assert lock.held
    assert lock.holder() == {
        "job": "41", "restart": 0, "host": socket.gethostname(), "pid": os.getpid(),
        "since": pytest.approx(time.time(), abs=60),
    }  # fmt: skip
    lock.release()


def test_a_job_of_an_array_is_named_as_users_write_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    lock = RunLock(tmp_path)
    lock.acquire()
    assert json.loads(lock.path.read_text())["job"] == "12_3"
    lock.release()


def test_a_lock_given_back_says_nothing_of_its_holder(tmp_path: Path) -> None:
    lock = RunLock(tmp_path / "new" / "run")
    assert not lock.held
    assert lock.holder() == {}
    lock.acquire()
    assert lock.held
    lock.release()
    assert not lock.held
    assert lock.path.read_bytes() == b""
    lock.release()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe", b"x" * 5000, b'{"job": "41"', b"null"]
)
def test_whatever_the_file_holds_the_second_is_refused(
    tmp_path: Path, hold: Any, content: bytes
) -> None:
    hold()
    # Not closed before the test is over, which would not matter: the lock is another process's.
    (tmp_path / "run.lock").write_bytes(content)
    seconds_to_be_refused(RunLock(tmp_path), "is being trained by another process; wait for it")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_lets_a_process_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    lock = RunLock(tmp_path)
    lock.acquire()
    assert lock.held
    assert lock.holder()["pid"] == os.getpid()
    lock.release()


def test_a_folder_that_cannot_be_written_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write") as caught:
        RunLock(tmp_path / "file" / "run").acquire()
    assert "\n" not in str(caught.value)


_FULL = """
import sys
from pathlib import Path
from pattlite_dist.tracking.lock import RunLock
folder = Path(sys.argv[1])
(folder / "run.lock").touch()
try:
    with open(folder / "foreign", "wb", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))
except OSError:
    pass
lock = RunLock(folder)
lock.acquire()
print(lock.held, lock.holder())
lock.release()
"""


def test_a_full_disk_keeps_nobody_out(tmp_path: Path) -> None:
    done = on_small_disk(tmp_path, _FULL)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "True {}\n"


def _take(run: str, inside: Any, most: Any) -> None:
    for _ in range(20):
        lock = RunLock(Path(run))
        lock.acquire()
        with inside.get_lock():
            inside.value += 1
            most.value = max(most.value, inside.value)
        time.sleep(0.002)
        with inside.get_lock():
            inside.value -= 1
        lock.release()


def test_never_are_two_inside_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_ANY_SECONDS", 60.0)
    context = multiprocessing.get_context("fork")
    inside, most = context.Value("i", 0), context.Value("i", 0)
    processes = [
        context.Process(target=_take, args=(str(tmp_path), inside, most)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    assert most.value == 1


@pytest.mark.parametrize(
    ("holder", "words"),
    [
        ({}, "another process"),
        ({"job": None, "host": "n1", "pid": 7}, "process 7 on n1"),
        ({"job": "12_3", "host": "n1", "pid": 7}, "job 12_3 (process 7 on n1)"),
    ],
)
def test_a_holder_in_words(holder: dict[str, Any], words: str) -> None:
    assert describe(holder) == words
