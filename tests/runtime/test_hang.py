"""Three ranks, one of which is stopped: the others find out which, say so, and end."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from torch.distributed import HashStore

from pattlite_dist.runtime import hang
from pattlite_dist.runtime.hang import STACKS, Watchdog, being_debugged
from pattlite_dist.runtime.pulse import Beat, Limits, Pulse
from pattlite_dist.tracking import history
from tests.conftest import tiny
from tests.starts import Zygote
from tests.train.faults import Fault


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "rank", "told"),
    [
        ("on_after_backward", 1, "rank 1 on {host} stopped answering, last seen in "),
        ("on_validation_batch_start", 0, "rank 0 on {host} stopped answering"),
    ],
    ids=["in a step", "rank 0 in a validation"],
)
def test_a_rank_that_is_stopped_is_named_and_ends_the_run(
    place: str, rank: int, told: str, zygote: Zygote, face_shards: Path, tmp_path: Path
) -> None:
    """Rank 0 has the store by which the others ask; without it they know as well."""
    step = 12 if place.startswith("on_validation") else 4
    fault = Fault(place, step, detail=1, rank=rank, signum=int(signal.SIGSTOP))
    options = tiny(
        face_shards, tmp_path, trainer__hang_minutes=0.05, trainer__timeout_minutes=2,
        trainer__global_batch=9, trainer__epochs=3,
    )  # fmt: skip
    start = zygote.start(options, 3, fault, together=False)
    run = tmp_path / "tiny"
    assert start.statuses[rank] == -signal.SIGKILL
    assert all(start.statuses), "each can be started again"
    failed = [event["error"] for event in history.read(run) if event["event"] == "failed"]
    assert failed  # without rank 0 and its store, each of the others notes what it last saw
    assert all(error.startswith(told.format(host=os.uname().nodename)) for error in failed), failed
    stacks = {path.name: path.read_text() for path in (run / STACKS).iterdir()}
    assert stacks
    assert f"rank-{rank}.txt" not in stacks
    assert all("pattlite_dist/train/run.py" in text for text in stacks.values())


def test_a_rank_that_stops_before_its_first_look_is_named() -> None:
    """It has a second from its start until then, in which a small network takes many steps."""
    store = HashStore()
    with ThreadPoolExecutor() as pool:
        made = [pool.submit(hang._Others, store, rank, 2) for rank in range(2)]
    mine = made[0].result()
    deadline = time.monotonic() + 30
    while mine.culprits(window=60) != [1] and time.monotonic() < deadline:
        mine.tell(Beat(0, "step", 4, over=True))
        time.sleep(0.02)
    assert mine.culprits(window=60) == [1]
    assert mine.told([1]).endswith(" stopped answering, last seen in its start at step 0")


class Exited(BaseException):
    """Instead of the end of this process."""


@pytest.fixture
def dog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watchdog:
    """Of a single rank whose step hangs, in a hurry."""
    monkeypatch.setattr(hang, "_EVERY", 0.01)
    monkeypatch.setattr(hang, "_WINDOW", (0.02, 0.02))

    def leave(status: int) -> None:
        raise Exited

    monkeypatch.setattr(os, "_exit", leave)
    pulse = Pulse()
    for step in range(3):
        pulse.begin("step", step)
    limits = Limits(hang_minutes=0.001, timeout_minutes=1, alone=True)
    noted: list[str] = []
    made = Watchdog(pulse, limits, tmp_path, 0, 1, None, noted.append)
    made.noted = noted  # type: ignore[attr-defined]
    return made


def test_a_single_rank_that_hangs_leaves_its_stacks_and_ends(dog: Watchdog, tmp_path: Path) -> None:
    with pytest.raises(Exited):
        dog._watch()
    assert dog.noted == [  # type: ignore[attr-defined]
        "hung in a step at step 2; its stacks are in stacks/"
    ]
    assert "_watch" in (tmp_path / STACKS / "rank-0.txt").read_text()


def test_a_pause_that_all_share_is_no_hang(dog: Watchdog, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGSTOP, a job that is suspended, a laptop's lid: this thread stood still as well."""
    monkeypatch.setattr(hang, "_PAUSE", 0.005)  # so that each look seems to follow a pause
    looks = iter(range(20))
    monkeypatch.setattr(dog._over, "wait", lambda _: time.sleep(0.01) or next(looks, None) is None)
    dog._watch()
    assert dog.pulse.paused > 0.1


def test_what_a_debugger_holds_is_waited_for(
    dog: Watchdog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hang, "being_debugged", lambda process: True)
    looks = iter(range(20))
    monkeypatch.setattr(dog._over, "wait", lambda _: time.sleep(0.01) or next(looks, None) is None)
    dog._watch()
    assert not being_debugged(os.getpid())
