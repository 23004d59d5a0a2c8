"""Work shared among processes: results in the order of the tasks, few tasks in flight."""

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

Task = TypeVar("Task")
Result = TypeVar("Result")
_IN_FLIGHT = 3  # tasks a process: one at work, the next at hand, one result on its way


def default_jobs() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


def parallel(work: Callable[[Task], Result], tasks: Iterable[Task], jobs: int) -> Iterator[Result]:
    """Yield `work(task)` for each task, in their order.

    Args:
        work: a function of a module, for it travels to other processes, as do tasks and results.
        tasks: taken only as results are, so that memory does not grow with their number.
        jobs: processes; with 1 all is done in this one.

    Raises:
        UserError: jobs is below 1, or a process was killed.
    """
    if jobs < 1:
        raise UserError(f"--jobs is {jobs}; give 1 or more")
    if jobs == 1:
        yield from map(work, tasks)
        return
    # Not forked: threads of this process, such as those that draw progress, would be lost halfway.
    # Of a server that has imported what they need, which each of them would take half a second for.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([work.__module__])
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
            "a worker process was killed, for lack of memory perhaps; run the command again with "
            "a smaller --jobs"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _settle() -> None:
    """Leave ^C to the parent, and do not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        # A killed parent says nothing, and its workers would wait for ever for their next task.
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
