"""Errors for private parts of a library that this package needs and that have changed."""

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
        what: is missing or different.
    """
    try:
        version = metadata.version(library)
    except metadata.PackageNotFoundError:
        version = "(unknown version)"
    return UserError(
        f"{library} {version} has no {what}, which pattlite_dist requires; "
        f"install a supported version: pip install '{supported(library)}'"
    )


def supported(library: str) -> str:
    """The requirement of this package on a library, such as `submitit<1.6,>=1.5.2`."""
    try:
        required = metadata.requires("pattlite_dist") or []
    except metadata.PackageNotFoundError:  # the package is not installed
        required = []
    plain = [text.partition(";")[0].strip() for text in required]
    return next((text for text in plain if re.match(rf"{library}(?![\w-])", text)), library)


def find(library: str, root: Any, path: str) -> Any:
    """Look up a dotted path of attributes.

    Raises:
        UserError: an attribute is missing.
    """
    try:
        return functools.reduce(getattr, path.split("."), root)
    except AttributeError as error:
        raise changed(library, f"`{path}`") from error


def find_function(
    library: str, root: Any, path: str, arguments: Sequence[str] = ()
) -> Callable[..., Any]:
    """Like `find`, for a function that accepts the given argument names.

    Raises:
        UserError: it is missing, not a function, or has other arguments.
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
