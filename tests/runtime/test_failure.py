"""What a rank learns of another's failure, with a store and without training."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist

from pattlite_dist.errors import UserError
from pattlite_dist.runtime import failure, hang
from pattlite_dist.runtime.failure import PeerFailed, Watch

GLOO = "[/x/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [::1]:5"


@pytest.fixture
def watches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Watch]]:
    """Three ranks' views, in one process."""
    monkeypatch.setattr(failure, "GRACE", 0.2)
    monkeypatch.setattr(failure, "PATIENCE", 5.0)
    store = dist.HashStore()
    ranks = [Watch(store, store, rank, 3) for rank in range(3)]
    yield ranks
    for watch in ranks:
        watch.stop()


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError(GLOO), True),
        (RuntimeError("NCCL error in: x.cpp:1, remote process exited"), True),
        (dist.DistNetworkError("failed to recv"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError(GLOO), False),
        (UserError("the shard is damaged"), False),
    ],
)
def test_a_lost_connection_is_told_from_other_errors(error: Exception, lost: bool) -> None:
    assert failure.is_lost(error) is lost


def test_a_reason_is_one_line() -> None:
    assert failure.reason(ValueError("a\nb")) == "ValueError: a"
    assert failure.reason(KeyError()) == "KeyError"
    assert failure.reason(UserError("Traceback:\n  x\nno shard; look")) == "no shard; look"


def test_the_others_learn_of_it_and_rank_0_notes_it_before_the_failed_one_ends(
    watches: list[Watch],
) -> None:
    noted: list[str] = []
    watches[0].on_failure = lambda text, mistake: noted.append(f"{text} {mistake}")
    error = ArithmeticError("seven")
    assert watches[1].judge(error) is error
    assert noted == ["rank 1 failed: ArithmeticError: seven False"]
    first, third = watches[0].judge(RuntimeError(GLOO)), watches[2].judge(RuntimeError(GLOO))
    for found in (first, third):
        assert isinstance(found, PeerFailed) and f"{found} {found.mistake}" == noted[0]
    assert isinstance(first, PeerFailed) and first.noted


def test_the_others_know_whether_it_was_the_users_mistake(watches: list[Watch]) -> None:
    watches[1].judge(UserError("no shard; look"))
    found = watches[2].judge(RuntimeError(GLOO))
    assert isinstance(found, PeerFailed) and found.mistake
    assert str(found) == "rank 1 failed: no shard; look"


def test_where_all_raise_the_same_nobody_waits_and_each_keeps_its_own(
    watches: list[Watch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failure, "GRACE", 60.0)  # a busy machine may start the threads late
    monkeypatch.setattr(failure, "PATIENCE", 60.0)
    noted: list[str] = []
    watches[0].on_failure = lambda text, mistake: noted.append(text)
    errors = [UserError(f"no shard on {rank}") for rank in range(3)]
    begin = time.monotonic()
    found: dict[int, Exception] = {}
    threads = [
        threading.Thread(target=lambda r=rank: found.update({r: watches[r].judge(errors[r])}))
        for rank in (2, 0, 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[rank] for rank in range(3)] == errors
    assert time.monotonic() - begin < 30
    assert noted == []


def test_a_rank_that_is_lost_without_a_word_is_said_to_be(watches: list[Watch]) -> None:
    found = watches[2].judge(RuntimeError(GLOO))
    assert isinstance(found, PeerFailed) and not found.noted
    assert str(found).startswith("lost the connection to the other ranks, of which one has ended")
    assert "gloo" not in str(found) and "\n" not in str(found)


def test_a_rank_that_waits_for_something_else_is_ended(
    watches: list[Watch], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(failure, "LIMIT", 0.5)
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    watches[1].judge(ArithmeticError("seven"))
    deadline = time.monotonic() + 20
    while len(ended) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert ended == [1, 1]  # of the two others
    line = "pattlite: error: rank 1 failed: ArithmeticError: seven"
    assert capsys.readouterr().err.splitlines() == [line, line]


class Held:
    """A stream into a file on a lost disk."""

    def __init__(self, over: threading.Event) -> None:
        self.over = over

    def write(self, text: str) -> None:
        self.over.wait(60)

    def flush(self) -> None:
        self.over.wait(60)


@pytest.mark.parametrize("lost", ["history", "output", "both", "output that fails"])
def test_a_rank_ends_also_where_a_lost_disk_holds_what_it_writes(
    lost: str, watches: list[Watch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failure, "LIMIT", 0.2)
    monkeypatch.setattr(failure, "PATIENCE", 0.2)
    ended, over = threading.Event(), threading.Event()
    monkeypatch.setattr(os, "_exit", lambda status: ended.set())
    if lost in ("history", "both"):
        watches[0].on_failure = lambda text, mistake: over.wait(60)
        watches[0].on_hang = lambda: hang.write_stacks(Path("/dev/null"), 0)
    if lost == "output that fails":
        with Path(os.devnull).open("w") as closed:
            pass
        monkeypatch.setattr("sys.stderr", closed)
    elif lost != "history":
        monkeypatch.setattr("sys.stderr", Held(over))
        monkeypatch.setattr("sys.stdout", Held(over))
    store = watches[1]._store
    store.set("hang", "rank 1 hung")
    store.set("failed", "rank 1 hung")
    try:
        assert ended.wait(20)
        assert not watches[0].noted or lost.startswith("output")
    finally:
        over.set()


def test_without_a_group_an_error_stays_what_it_is() -> None:
    error = RuntimeError(GLOO)
    assert failure.judge(error) is error
