"""Imports a script of `benchmarks/`, which is no package, for a while."""

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.conftest import ROOT


@contextlib.contextmanager
def benchmark(name: str) -> Iterator[Any]:
    """The script as a module; afterwards it, and what it imported beside it, is forgotten."""
    folder = ROOT / "benchmarks"
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))
        for other in set(sys.modules) - before:
            file = getattr(sys.modules[other], "__file__", None)
            if file and Path(file).parent == folder:
                del sys.modules[other]
