"""The one exception that means "the user can mend this"."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails


class UserError(Exception):
    """Bad input: the message is one line that says what is wrong, where, and how to mend it.

    The command line prints it without a traceback and exits with status 2. Anything else that
    escapes is our bug and shows its traceback.
    """


def first_problem(error: "ValidationError") -> tuple[str, "ErrorDetails"]:
    """The first thing that pydantic found: its place, dotted, empty for the whole, and the rest."""
    first = error.errors()[0]
    return ".".join(map(str, first["loc"])), first
