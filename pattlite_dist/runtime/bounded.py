"""Work that a lost disk or server may hold for ever, and that is not waited for as long."""

import threading
from collections.abc import Callable

from pattlite_dist.runtime.signals import held_back


def within(seconds: float, work: Callable[[], object], name: str) -> bool:
    """Whether `work` is done in time. If not, it goes on, and nothing that it raises is told.

    Args:
        seconds: to wait.
        work: called in a thread, a daemon, because any other would hold the process's end as well.
        name: of the thread, after `pattlite-`.

    Raises:
        Exception: what `work` raised in that time.
    """
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name=f"pattlite-{name}", daemon=True)
    try:
        with held_back():  # the signals that stop a run are for other threads
            thread.start()
    except RuntimeError:  # there are no new ones: too many, or the interpreter ends
        run()
    else:
        thread.join(seconds)
        if thread.is_alive():
            return False
    if errors:
        raise errors[0]
    return True
