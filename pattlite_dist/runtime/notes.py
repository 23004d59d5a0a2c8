"""Notes: what is worth a line, but neither stops a run nor is a part of what a command prints."""

import sys
from collections.abc import Hashable

_noted: set[Hashable] = set()


def note(text: str, once: Hashable = None) -> None:
    """Print a note on the standard error.

    Args:
        text: without a full stop at its end.
        once: what it is about, of which this process then says no more; None: say it each time.
    """
    if once is not None:
        if once in _noted:
            return
        _noted.add(once)
    print(f"pattlite: note: {text}", file=sys.stderr, flush=True)
