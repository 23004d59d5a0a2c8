"""The exceptions that end a command with one line: what the user can fix, and what may pass."""

import errno
from collections.abc import Sequence
from pathlib import Path
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


class Unreachable(Exception):
    """A file system that does not answer, as one of a server that restarts.

    Also one line, but with exit status 1: a launcher starts the work again.
    """


class BadNode(Unreachable):
    """A node that cannot do its part of a run: another start may do without it."""


_PASSING = {
    errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EREMOTEIO, errno.ENOTCONN, errno.ECONNRESET,
    errno.ECONNABORTED, errno.ESHUTDOWN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN,
    errno.ENETUNREACH, errno.EAGAIN,
}  # fmt: skip


def is_passing(error: OSError) -> bool:
    """Whether an error says that a file system does not answer."""
    return error.errno in _PASSING


def unreadable(path: Path, error: OSError, fix: str) -> "UserError | Unreachable":
    """The exception for a file that cannot be read; `fix` is what the user can do about it."""
    text = f"cannot read {path}: {error.strerror or error}"
    if is_passing(error):
        return Unreachable(f"{text}; the disk or its server does not answer, start again later")
    return UserError(f"{text}; {fix}")


def first_problem(error: "ValidationError") -> tuple[str, "ErrorDetails"]:
    """The first error of pydantic: its dotted place, empty for the whole, and its details."""
    first = error.errors()[0]
    return on_one_line(".".join(map(str, first["loc"]))), first


def on_one_line(text: str) -> str:
    """A text for messages: what does not print, such as a line break, is written as in Python."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
