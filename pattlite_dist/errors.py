"""The one exception that means "the user can fix this"."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails


class UserError(Exception):
    """Bad input: the message is one line that says what is wrong, where, and how to fix it.

    The command line prints it without a traceback and exits with status 2. Any other exception
    that escapes is a bug of ours and shows its traceback.
    """


def first_problem(error: "ValidationError") -> tuple[str, "ErrorDetails"]:
    """The first error of pydantic: its dotted place, empty for the whole, and its details."""
    first = error.errors()[0]
    return on_one_line(".".join(map(str, first["loc"]))), first


def on_one_line(text: str) -> str:
    """A text for messages: what does not print, such as a line break, is written as in Python."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
