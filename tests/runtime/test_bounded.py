"""Work that ends, fails, waits for ever, and cannot be given a thread."""

import signal
import subprocess
import sys
import threading

import pytest

from pattlite_dist.runtime.bounded import within
from pattlite_dist.runtime.signals import STOPPING


def test_what_is_done_in_time_is_known_to_be() -> None:
    done: list[str] = []
    assert within(60, lambda: done.append(threading.current_thread().name), "x")
    assert done == ["pattlite-x"]


def test_what_waits_for_ever_is_left_behind() -> None:
    over = threading.Event()
    assert not within(0.05, over.wait, "x")
    over.set()


def test_an_error_in_time_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        within(60, lambda: 1 / 0, "x")


def test_its_thread_takes_no_signal_that_stops_a_run() -> None:
    masks: list[set[signal.Signals]] = []
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    within(60, lambda: masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, [])), "x")
    assert masks[0] >= set(STOPPING)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_it_does_not_hold_the_end_of_its_process_and_works_in_it() -> None:
    """Newer versions of Python give no threads then."""
    code = (
        "import atexit, threading\n"
        "from pattlite_dist.runtime.bounded import within\n"
        "atexit.register(lambda: within(9, lambda: print('said'), 'x'))\n"
        "print(within(0.05, threading.Event().wait, 'x'))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (run.stdout.split(), run.stderr, run.returncode) == (["False", "said"], "", 0)


def test_without_a_thread_it_works_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    names: list[str] = []
    assert within(60, lambda: names.append(threading.current_thread().name), "x")
    assert names == [threading.current_thread().name]
    with pytest.raises(ZeroDivisionError):
        within(60, lambda: 1 / 0, "x")
