import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from pattlite_dist.runtime import signals as module
from pattlite_dist.runtime.signals import STOPPING, Signals, Stopped, held_back, ignore_in_loader


@pytest.fixture(autouse=True)
def _same_handlers_afterwards() -> Iterator[None]:
    before = [signal.getsignal(signum) for signum in STOPPING]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield
    after = [signal.getsignal(signum) for signum in STOPPING]
    still = signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    for signum, handler in zip(STOPPING, before, strict=True):
        signal.signal(signum, handler)
    assert after == before
    assert still == mask


def send(signum: int) -> None:
    os.kill(os.getpid(), signum)


def test_the_signals_are_those_that_slurm_and_people_stop_a_job_with() -> None:
    assert set(STOPPING) == {signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT}


@pytest.mark.parametrize("signum", STOPPING)
def test_a_signal_is_noted_and_stops_nothing(signum: int) -> None:
    with Signals() as signals:
        assert (signals.got, signals.noted) == (0, 0.0)
        begin = time.time()
        send(signum)
        assert signals.got == signum
        assert begin <= signals.noted <= time.time()


@pytest.mark.parametrize("first", STOPPING)
def test_only_the_first_is_noted(first: int) -> None:
    with Signals() as signals:
        send(first)
        noted = signals.noted
        for signum in STOPPING:
            send(signum)
        assert (signals.got, signals.noted) == (first, noted)


def test_the_handlers_of_before_are_kept_at_hand_and_come_back() -> None:
    seen: list[int] = []

    def mine(signum: int, frame: object) -> None:
        seen.append(signum)

    before = signal.signal(signal.SIGUSR2, mine)
    try:
        with Signals() as signals:
            assert signals.previous[signal.SIGUSR2] is mine
            assert set(signals.previous) == set(STOPPING)
            send(signal.SIGUSR2)
            assert seen == []
        assert signal.getsignal(signal.SIGUSR2) is mine
        send(signal.SIGUSR2)
        assert seen == [signal.SIGUSR2]
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_the_handlers_come_back_after_an_error_and_from_inside_one_another() -> None:
    before = [signal.getsignal(signum) for signum in STOPPING]
    with pytest.raises(ZeroDivisionError), Signals() as outer:
        with Signals() as inner:
            send(signal.SIGTERM)
        assert (inner.got, outer.got) == (signal.SIGTERM, 0)
        send(signal.SIGUSR1)
        assert outer.got == signal.SIGUSR1
        raise ZeroDivisionError
    assert [signal.getsignal(signum) for signum in STOPPING] == before


def test_a_second_interrupt_is_obeyed_at_once_but_not_its_echo(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Signals() as signals:
        send(signal.SIGINT)
        send(signal.SIGINT)  # torchrun forwards the terminal's
        monkeypatch.setattr(module, "_PATIENCE", 0.05)
        time.sleep(0.1)
        send(signal.SIGTERM)  # only ^C counts a second time
        assert signals.got == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_an_interrupt_after_another_signal_is_impatience_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.0)
    with Signals() as signals:
        send(signal.SIGTERM)
        time.sleep(0.01)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
        assert signals.got == signal.SIGTERM


def test_a_forked_child_takes_no_note() -> None:
    with Signals() as signals:
        child = os.fork()
        if not child:
            for signum in STOPPING:
                send(signum)
            os._exit(signals.got)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert signals.got == 0


def test_outside_the_main_thread_it_takes_no_notes_and_breaks_nothing() -> None:
    before = [signal.getsignal(signum) for signum in STOPPING]
    found: list[object] = []

    def work() -> None:
        with Signals() as signals:
            found.append(signals.got)
            found.append(dict(signals.previous))
            found.append([signal.getsignal(signum) for signum in STOPPING] == before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [0, {}, True]


@pytest.mark.parametrize("signum", STOPPING)
def test_what_is_held_back_is_delivered_afterwards(signum: int) -> None:
    with Signals() as signals:
        with held_back():
            # To this thread: a thread left by another test could take a signal sent to the process.
            signal.raise_signal(signum)
            time.sleep(0.01)
            assert signals.got == 0
            with held_back():
                pass
            assert signals.got == 0, "the inner one lets nothing through"
        assert signals.got == signum


def test_what_is_held_back_is_delivered_after_an_error_too() -> None:
    with Signals() as signals:
        with pytest.raises(ZeroDivisionError), held_back():
            signal.raise_signal(signal.SIGTERM)
            raise ZeroDivisionError
        assert signals.got == signal.SIGTERM


_INHERITS = """
import os, signal, sys, time
from pattlite_dist.runtime.signals import STOPPING, ignore_in_loader
for signum in STOPPING:
    os.kill(os.getpid(), signum)
print("lives", flush=True)
if sys.argv[1] == "loader":
    ignore_in_loader()
    for signum in STOPPING:
        os.kill(os.getpid(), signum)
    print(not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & set(STOPPING), flush=True)
"""


@pytest.mark.parametrize("what", ["", "loader"])
def test_a_process_started_while_signals_are_held_back_lives_through_its_start(what: str) -> None:
    with held_back():
        done = subprocess.run(
            [sys.executable, "-c", _INHERITS, what], capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == (["lives", "True"] if what else ["lives"])


def test_a_loader_process_is_deaf_from_then_on() -> None:
    child = os.fork()
    if not child:
        with held_back():
            ignore_in_loader(3)
            for signum in STOPPING:
                send(signum)
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_stop_says_which_signal_and_where() -> None:
    stop = Stopped(signal.SIGUSR2, 42, None, 5.0)
    assert str(stop) == "stopped by SIGUSR2 at step 42"
    assert stop.name == "SIGUSR2"
    assert (stop.signum, stop.step, stop.saved, stop.noted) == (signal.SIGUSR2, 42, None, 5.0)
