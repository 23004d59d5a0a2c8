"""Importing what is heavy: PyTorch, Lightning and all that they bring along."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def quick_imports() -> Iterator[None]:
    """Hide what is imported from the garbage collector, which would only find it in use.

    Without it, searching a million objects while they are made and again when the interpreter ends
    takes two fifths of the CPU time of a process that does little else.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
