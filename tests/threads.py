"""Threads that do the same at the same moment."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


def at_once(number: int, work: Callable[[int], object]) -> None:
    """Call `work` with 0, 1, ... in a thread each, none before all have begun."""
    barrier = threading.Barrier(number)

    def begin(place: int) -> None:
        barrier.wait()
        work(place)

    with ThreadPoolExecutor(number) as pool:
        list(pool.map(begin, range(number)))
