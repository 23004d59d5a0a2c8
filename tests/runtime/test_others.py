"""Ranks of one process with a store of their own, which find out because of whom they wait."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from torch.distributed import HashStore

from pattlite_dist.runtime import others
from pattlite_dist.runtime.others import Others
from pattlite_dist.runtime.pulse import Beat
from pattlite_dist.tracking import history
from tests.threads import at_once


def ranks(store: Any, size: int) -> list[Others]:
    return [Others(store, rank, size, lambda own: [own] * size) for rank in range(size)]


def test_a_rank_that_stops_before_its_first_look_is_named() -> None:
    """It has a second from its start until then, in which a small network takes many steps."""
    store = HashStore()
    mine, _ = ranks(store, 2)
    deadline = time.monotonic() + 30
    while mine.culprits(window=60) != [1] and time.monotonic() < deadline:
        mine.tell(Beat(0, "step", 4, over=True))
        time.sleep(0.02)
    assert mine.culprits(window=60) == [1]
    assert mine.told([1]).endswith(" stopped answering, last seen in its start at step 0")


def end_all(all_ranks: list[Others], note: Any) -> None:
    """Each in words of its own, all at once."""
    at_once(len(all_ranks), lambda rank: all_ranks[rank].tell_end(f"rank {rank} says so", note))


@pytest.mark.parametrize("size", [2, 3, 8])
def test_of_ranks_that_find_out_at_once_one_notes_what_all_are_told(
    size: int, tmp_path: Path
) -> None:
    """Their texts may differ, and between the look at the history and the note is time."""
    store = HashStore()
    published = []

    def note(text: str) -> None:
        time.sleep(0.1)
        published.append(store.check(["failed"]))
        history.note_failed(tmp_path, text, final=False)

    end_all(ranks(store, size), note)
    [event] = history.read(tmp_path)
    assert event["error"] == store.get("failed").decode() == store.get("hang").decode()
    assert published == [False], "noted before the others hear of it, who would note it as well"


def test_a_rank_that_does_not_speak_leaves_the_note_to_one_that_does() -> None:
    store = HashStore()
    silent, speaker = ranks(store, 2)
    noted: list[str] = []
    silent.tell_end("first", None)
    assert not noted
    assert store.get("failed") == b"first"
    speaker.tell_end("second", noted.append)
    assert noted == ["first"]


def test_where_the_store_does_not_answer_each_notes_what_it_last_saw(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(others, "GOODBYE", 0.2)
    over = threading.Event()

    class Stopped(HashStore):
        def compare_set(self, key: str, expected: str, desired: str) -> bytes:
            over.wait(60)
            raise RuntimeError("its rank has ended")

    noted: list[str] = []
    end_all(ranks(Stopped(), 3), noted.append)
    over.set()
    assert sorted(noted) == [f"rank {rank} says so" for rank in range(3)]


def test_a_note_that_a_lost_disk_holds_keeps_nobody_from_hearing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(others, "GOODBYE", 0.4)
    over = threading.Event()
    store = HashStore()
    mine, _ = ranks(store, 2)
    mine.tell_end("rank 0 hung", lambda text: over.wait(60))  # type: ignore[arg-type,return-value]
    assert store.get("failed") == b"rank 0 hung"
    over.set()
