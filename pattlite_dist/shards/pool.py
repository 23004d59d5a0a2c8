"""Parallel processing: results in the order of the tasks, few tasks in flight."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import TypeVar

from pattlite_dist.errors import UserError
from pattlite_dist.runtime.signals import accept, start_helpers

Task = TypeVar("Task")
Result = TypeVar("Result")
_IN_FLIGHT = 3  # tasks per process: one running, the next one queued, one result in transit


def parallel(work: Callable[[Task], Result], tasks: Iterable[Task], jobs: int) -> Iterator[Result]:
    """Yield `work(task)` for each task, in their order.

    Args:
        work: a module-level function; it is pickled, as are tasks and results.
        tasks: consumed only as results are, so that memory does not grow with their number.
        jobs: number of processes; 1 runs everything in the current one.

    Raises:
        UserError: jobs is below 1, or a process was killed.
    """
    if jobs < 1:
        raise UserError(f"--jobs is {jobs}; give 1 or more")
    if jobs == 1:
        yield from map(work, tasks)
        return
    # Not fork: threads of this process, such as the progress display, would be cut off midway.
    # The fork server has already imported what workers need, which takes half a second each.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([work.__module__])
    start_helpers(context)
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_settle)
    waiting: deque[Future[Result]] = deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(work, task))
            if len(waiting) == jobs * _IN_FLIGHT:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise UserError(
            "a worker process was killed, possibly for lack of memory; run the command again with "
            "a smaller --jobs"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _settle() -> None:
    """Leave Ctrl-C to the parent, and do not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    accept()
    parent = multiprocessing.parent_process()
    if parent is not None:
        # A killed parent sends no message, and its workers would wait for a task forever.
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
