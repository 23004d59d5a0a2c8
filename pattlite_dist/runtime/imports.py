"""Importing what is heavy: PyTorch, Lightning and all that they bring along."""

import atexit
import contextlib
import gc
import glob
import logging
import sys
from collections.abc import Iterator

_DEVICES = ("/dev/nvidia[0-9]*", "/dev/kfd", "/dev/dxg")  # NVIDIA, AMD, and either under Windows


@contextlib.contextmanager
def quick_imports() -> Iterator[None]:
    """Hide what is imported from the garbage collector, which would only find it in use.

    Without it, searching a million objects while they are made and again when the interpreter ends
    takes two fifths of the CPU time of a process that does little else.
    """
    enabled = gc.isenabled()
    gc.disable()
    leave_out_triton()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


def leave_out_triton() -> None:
    """Make PyTorch do without Triton, its compiler for GPUs, where there is no GPU.

    Its import takes as long as a tenth of PyTorch's. And Triton 3.9 writes many lines on standard
    error if the interpreter ends while the collector may not free it: on GPUs, it may.
    """
    # PyTorch 2.15 warns that it cannot count what Triton computes.
    logging.getLogger("torch.utils.flop_counter").setLevel(logging.ERROR)
    if "triton" in sys.modules:
        return
    if any(map(glob.glob, _DEVICES)):
        atexit.unregister(_thaw)
        atexit.register(_thaw)
    else:
        sys.modules["triton"] = None  # type: ignore[assignment]  # as documented: it is not found


def _thaw() -> None:
    if sys.modules.get("triton") is not None:
        gc.unfreeze()
