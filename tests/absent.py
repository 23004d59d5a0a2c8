"""Packages that cannot be imported for a while, as if they were not installed."""

import contextlib
import importlib.abc
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType


class Absent(importlib.abc.MetaPathFinder):
    """Refuses to find packages, and all that is in them."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = frozenset(names)

    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> None:
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@contextlib.contextmanager
def absent(*names: str) -> Iterator[None]:
    """Without these packages, even if they have been imported."""
    finder = Absent(names)
    held = {name: sys.modules[name] for name in list(sys.modules)
            if name.partition(".")[0] in finder.names}  # fmt: skip
    for name in held:
        del sys.modules[name]
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        sys.modules.update(held)
