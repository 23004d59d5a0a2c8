"""The one exception that means "the user can fix this"."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails


class UserError(Exception):
    """Bad input: the message is one line that says what is wrong, where, and how to fix it.

    The command line prints it without a traceback and exits with status 2. Any other exception
    that escapes is a bug of ours and shows its traceback.

    Args:
        message: the line.
        details: lines to print before it, such as one for each bad file.
    """

    def __init__(self, message: str = "", details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.details = tuple(details)


def first_problem(error: "ValidationError") -> tuple[str, "ErrorDetails"]:
    """The first error of pydantic: its dotted place, empty for the whole, and its details."""
    first = error.errors()[0]
    return ".".join(map(str, first["loc"])), first
