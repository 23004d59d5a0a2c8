"""Object stores and anything else that fsspec reaches: retries, and errors without secrets.

Each store raises its own errors. Here they become two: transient ones, which are worth a retry,
and final ones, which a retry would meet again.
"""

import contextlib
import errno
import logging
import random
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from pattlite_dist.logins import split_login

T = TypeVar("T")
_log = logging.getLogger(__name__)
_first_pause, _longest_pause = 0.5, 30.0  # seconds; doubled from try to try
_LONGEST_REASON = 300  # characters; some gateways answer with a page
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}

_LASTING_KINDS = (
    FileNotFoundError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
    PermissionError,
    ValueError,
    TypeError,
    NotImplementedError,
)
_LASTING_NUMBERS = {
    errno.EINVAL,
    errno.EPERM,
    errno.ENOSYS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.ENAMETOOLONG,
    errno.EMSGSIZE,
    getattr(errno, "EREMCHG", errno.ENOENT),  # s3fs: the bucket is in another region
}
_WORTH_ANOTHER_TRY = {408, 409, 425, 429}  # of HTTP's 4xx
# botocore's errors that come from the network, not from its arguments.
_BOTO_NETWORK = {"HTTPClientError", "ConnectionError", "IncompleteReadError", "ChecksumError"}


class Transient(Exception):
    """A failure that may not happen again."""


class Final(Exception):
    """A failure that a retry would meet again."""


def open_store(address: str) -> tuple[Any, str]:
    """An address as an fsspec file system and a path; opened once in each process.

    Call it at every use and do not keep the result: a file system does not survive a fork.
    """
    import fsspec

    store, path = fsspec.core.url_to_fs(address)
    return store, str(path)


@contextlib.contextmanager
def store_errors(address: str) -> Iterator[None]:
    """Turn a store's errors into `Transient` or `Final`, in one line without secrets."""
    try:
        yield
    except (Transient, Final):
        raise
    except ImportError as error:
        extra = _EXTRAS.get(address.partition("://")[0])
        install = f"pip install 'pattlite_dist[{extra}]'" if extra else "install it with pip"
        raise Final(f"{_reason(error, address)}; {install}") from error
    except Exception as error:
        if is_lasting(error):
            raise Final(f"{_reason(error, address)}; {_mend(error)}") from error
        raise Transient(_reason(error, address)) from error


def is_lasting(error: BaseException) -> bool:
    """Whether a retry would meet the same failure, as far as the error shows."""
    if isinstance(error, (TimeoutError, ConnectionError)):
        return False
    if isinstance(error, _LASTING_KINDS) or _of_credentials(error):
        return True
    if isinstance(error, OSError) and error.errno in _LASTING_NUMBERS:
        return True
    names = {kind.__name__ for kind in type(error).__mro__}
    if "BotoCoreError" in names:
        return not names & _BOTO_NETWORK
    status = _status(error) or _status(error.__cause__)
    return status is not None and 400 <= status < 500 and status not in _WORTH_ANOTHER_TRY


def _of_credentials(error: BaseException) -> bool:
    return "Credential" in type(error).__name__ or "Token" in type(error).__name__


def _status(error: BaseException | None) -> int | None:
    """The HTTP status in an error of botocore (`response`), gcsfs (`code`) or aiohttp."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        response = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    for found in (response, getattr(error, "code", None), getattr(error, "status", None)):
        if isinstance(found, int):
            return found
    return None


def _reason(error: Exception, address: str) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    login = split_login(address)[1]
    password = login.partition(":")[2]
    for secret in (login, password, address.partition("?")[2]):
        for written in (secret, urllib.parse.unquote(secret)):
            if written:
                text = text.replace(written, "***")
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}..."


def _mend(error: Exception) -> str:
    if isinstance(error, PermissionError) or _of_credentials(error):
        return "check the credentials and what they allow"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free some space"
    return "check the address"


def patiently(action: Callable[[], T], what: str, retries: int) -> T:
    """What `action` gives, tried again after a pause while it raises `Transient`.

    Args:
        action: may be done again from its beginning.
        what: goes before the reason in the log.
        retries: further tries after the first.

    Raises:
        Final: `action` raised it, or the last try raised `Transient`.
    """
    try:
        return tried_again(action, retries, (Transient,), lambda error: f"{what}: {error}")
    except Transient as error:
        tries = f"tried {retries + 1} times"
        raise Final(f"{error}; check the address and the network ({tries})") from error


def tried_again(
    action: Callable[[], T],
    retries: int,
    passing: tuple[type[Exception], ...],
    told: Callable[[Exception], str],
) -> T:
    """What `action` gives, tried again after a pause while its error may pass.

    Args:
        action: may be done again from its beginning; what it raises last is raised.
        retries: further tries after the first.
        passing: kinds of errors that may pass.
        told: an error as the log tells it.
    """
    pause = _first_pause
    for _ in range(retries):
        try:
            return action()
        except passing as error:
            _log.warning("%s; trying again", told(error))
        time.sleep(pause * random.uniform(0.5, 1))  # processes that failed together part
        pause = min(2 * pause, _longest_pause)
    return action()
