"""Three ranks, one of which is stopped: the others find out which, say so, and end."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from pattlite_dist.runtime import hang
from pattlite_dist.runtime.hang import STACKS, Watchdog, being_debugged
from pattlite_dist.runtime.pulse import Limits, Pulse
from pattlite_dist.tracking import history
from tests.conftest import tiny
from tests.starts import Start, Zygote
from tests.train.faults import LOADER, RENAME, SKIP, START, Fault
from tests.train.harness import alive, until


def hung(
    zygote: Zygote, shards: Path, runs: Path, fault: Fault, **options: object
) -> tuple[Start, list[str], dict[str, str]]:
    """A start of three ranks that a fault keeps waiting, what its history says, and the stacks."""
    arguments = tiny(
        shards, runs, trainer__hang_minutes=0.05, trainer__timeout_minutes=2,
        trainer__global_batch=9, trainer__epochs=3, **options,
    )  # fmt: skip
    start = zygote.with_small_networks().start(arguments, 3, fault, together=False)
    assert all(start.statuses), "each can be started again"
    assert not until(lambda: alive(start.sessions))
    failed = [event for event in history.read(runs / "tiny") if event["event"] == "failed"]
    assert not any("final" in event for event in failed)
    stacks = {path.name: path.read_text() for path in (runs / "tiny" / STACKS).iterdir()}
    assert all("pattlite_dist/train/run.py" in text for text in stacks.values())
    return start, [event["error"] for event in failed], stacks


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "step", "rank", "told"),
    [
        ("on_after_backward", 4, 1, "rank 1 on {host} stopped answering, last seen in "),
        ("on_validation_batch_start", 12, 0, "rank 0 on {host} stopped answering"),
        (RENAME, 4, 0, "rank 0 on {host} stopped answering"),
    ],
    ids=["in a step", "rank 0 in a validation", "rank 0 in a save beside a step"],
)
def test_a_rank_that_is_stopped_is_named_and_ends_the_run(
    place: str, step: int, rank: int, told: str, zygote: Zygote, face_shards: Path, tmp_path: Path
) -> None:
    """Rank 0 has the store by which the others ask; without it they know as well."""
    fault = Fault(place, step, detail=1, rank=rank, signum=int(signal.SIGSTOP))
    start, failed, stacks = hung(
        zygote, face_shards, tmp_path, fault, trainer__checkpoint_every_steps=4
    )
    assert start.statuses[rank] == -signal.SIGKILL
    assert failed  # without rank 0 and its store, each of the others notes what it last saw
    assert all(error.startswith(told.format(host=os.uname().nodename)) for error in failed), failed
    assert stacks
    assert f"rank-{rank}.txt" not in stacks


@pytest.mark.slow
def test_a_rank_whose_loader_processes_are_stopped_is_named(
    zygote: Zygote, face_shards: Path, tmp_path: Path
) -> None:
    fault = Fault(LOADER, 4, rank=1, signum=int(signal.SIGSTOP))
    _, failed, stacks = hung(zygote, face_shards, tmp_path, fault, data__workers=1)
    host = os.uname().nodename
    [error] = failed
    assert error.startswith(f"rank 1 on {host} hung in a wait for data at step "), error
    assert sorted(stacks) == ["rank-0.txt", "rank-1.txt", "rank-2.txt"]


@pytest.mark.slow
def test_a_checkpoint_that_a_disk_does_not_take_is_told_by_the_next(
    zygote: Zygote, face_shards: Path, tmp_path: Path
) -> None:
    """The thread that writes it never returns; training goes on until it waits for it."""
    fault = Fault(RENAME, 4, signum=0)
    _, failed, stacks = hung(
        zygote, face_shards, tmp_path, fault, trainer__checkpoint_every_steps=4
    )
    [error] = failed
    assert f"rank 0 on {os.uname().nodename} hung in a save at step 8" in error, error
    assert "atomic_write" in stacks["rank-0.txt"], "the stack of the thread that writes"


@pytest.mark.slow
def test_a_rank_that_ends_before_it_has_met_the_watchdog_ends_the_others(
    zygote: Zygote, face_shards: Path, tmp_path: Path
) -> None:
    """By its lost connection: in their store they would wait for it until the timeout."""
    arguments = tiny(face_shards, tmp_path, trainer__timeout_minutes=30)
    start = zygote.with_small_networks().start(arguments, 2, Fault(START, 0, rank=1), together=True)
    assert start.statuses == [1, -signal.SIGKILL]
    assert "lost the connection to the other ranks" in start.log


@pytest.mark.slow
def test_a_rank_that_skips_a_collective_is_named(
    zygote: Zygote, face_shards: Path, tmp_path: Path
) -> None:
    _, failed, stacks = hung(zygote, face_shards, tmp_path, Fault(SKIP, 4, rank=1))
    [error] = failed
    assert error.startswith(f"rank 1 on {os.uname().nodename} hung in a step at step 3;"), error
    assert "in recv" in stacks["rank-1.txt"]
    assert "in all_reduce" in stacks["rank-0.txt"]


class Exited(BaseException):
    """Instead of the end of this process."""


@pytest.fixture
def dog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watchdog:
    """Of a single rank whose step hangs, in a hurry."""
    monkeypatch.setattr(hang, "_EVERY", 0.01)
    monkeypatch.setattr(hang, "window_of", lambda patience: 0.02)

    def leave(status: int) -> None:
        raise Exited

    monkeypatch.setattr(os, "_exit", leave)
    pulse = Pulse()
    for step in range(3):
        pulse.begin("step", step)
    limits = Limits(hang_minutes=0.001, timeout_minutes=1, alone=True)
    noted: list[str] = []
    made = Watchdog(pulse, limits, tmp_path, 0, None, noted.append)
    made.noted = noted  # type: ignore[attr-defined]
    return made


def test_a_single_rank_that_hangs_leaves_its_stacks_and_ends(dog: Watchdog, tmp_path: Path) -> None:
    with pytest.raises(Exited):
        dog._watch()
    assert dog.noted == [  # type: ignore[attr-defined]
        "hung in a step at step 2; its stacks are in stacks/"
    ]
    assert "_watch" in (tmp_path / STACKS / "rank-0.txt").read_text()


def test_a_single_rank_that_cannot_write_its_history_ends(dog: Watchdog) -> None:
    def fail(text: str) -> None:
        raise OSError(f"no space for {text}")

    dog.note = fail
    with pytest.raises(Exited):
        dog._watch()


@pytest.mark.parametrize("stage", ["stacks", "note"])
def test_a_single_rank_ends_where_a_lost_disk_never_answers(
    stage: str, dog: Watchdog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Perhaps it hangs for want of that very disk."""
    monkeypatch.setattr(hang, "GOODBYE", 0.2)
    over = threading.Event()
    if stage == "stacks":
        (tmp_path / STACKS).mkdir()
        os.mkfifo(tmp_path / STACKS / "rank-0.txt")  # opened for ever: nobody reads
    else:
        dog.note = lambda text: over.wait(60)  # type: ignore[assignment,return-value]
    with pytest.raises(Exited):
        dog._watch()
    assert ("cannot write stacks: the disk does not answer" in capfd.readouterr().err) == (
        stage == "stacks"
    )
    over.set()
    if stage == "stacks":  # let its thread go
        os.close(os.open(tmp_path / STACKS / "rank-0.txt", os.O_RDONLY | os.O_NONBLOCK))


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
