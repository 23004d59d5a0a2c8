"""The error for a library in which something private that this package needs has changed."""

import functools
import inspect
import re
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

from pattlite_dist.errors import UserError


def changed(library: str, what: str) -> UserError:
    """The error to raise.

    Args:
        library: its name on PyPI.
        what: is missing or has another shape.
    """
    try:
        version = metadata.version(library)
    except metadata.PackageNotFoundError:
        version = "(unknown version)"
    return UserError(
        f"{library} {version} has no {what} as pattlite_dist needs it; "
        f"install a version that it supports: pip install '{supported(library)}'"
    )


def supported(library: str) -> str:
    """What this package requires of a library, such as `submitit<1.6,>=1.5.2`."""
    try:
        required = metadata.requires("pattlite_dist") or []
    except metadata.PackageNotFoundError:  # a copy of the code that is not installed
        required = []
    plain = [text.partition(";")[0].strip() for text in required]
    return next((text for text in plain if re.match(rf"{library}(?![\w-])", text)), library)


def find(library: str, root: Any, path: str) -> Any:
    """What a dotted path of attributes leads to.

    Raises:
        UserError: one of them is missing.
    """
    try:
        return functools.reduce(getattr, path.split("."), root)
    except AttributeError as error:
        raise changed(library, f"`{path}`") from error


def find_function(
    library: str, root: Any, path: str, arguments: Sequence[str] = ()
) -> Callable[..., Any]:
    """The same, of a function that takes these arguments by name.

    Raises:
        UserError: it is missing, or it is another one.
    """
    function = find(library, root, path)
    if not callable(function):
        raise changed(library, f"function `{path}`")
    known = inspect.signature(function).parameters if arguments else {}
    missing = [name for name in arguments if name not in known]
    if missing:
        raise changed(library, f"argument {missing[0]!r} of `{path}`")
    found: Callable[..., Any] = function
    return found
