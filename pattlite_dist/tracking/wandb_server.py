"""W&B's server: where it is, whether there is a login for it, and whether it can be reached."""

import http.client
import netrc
import os
import ssl
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from pattlite_dist.logins import without_secrets
from pattlite_dist.runtime.bounded import within

PATIENCE = 5.0  # seconds; wandb itself would wait for a minute and a half, and then fail


def address() -> str:
    """Of the server."""
    return os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"


def without_key(text: str) -> str:
    """What wandb says, on one line and without the key of the environment."""
    text, key = " ".join(text.split()), os.environ.get("WANDB_API_KEY")
    return text.replace(key, "***") if key else text


def has_login() -> bool:
    """Whether there is a key for wandb's server, in the environment or in .netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(address()).hostname
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def unreachable(patience: float = PATIENCE) -> str | None:
    """Why the server cannot be reached from here, as from most compute nodes; None if it can.

    Any answer will do, and what is wrong with a certificate is for wandb to judge.

    Args:
        patience: seconds to wait for an answer.
    """
    where = without_secrets(address())
    found = [f"{where} does not answer within {patience:g} s"]

    def ask() -> None:
        answer = _ask(patience)
        found[0] = f"{where} cannot be reached ({answer})" if answer else ""

    within(patience, ask, "wandb")  # looking up a name knows no time limit
    return found[0] or None


class _Stay(urllib.request.HTTPRedirectHandler):
    """Another address is an answer too."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _ask(patience: float) -> str | None:
    try:
        urllib.request.build_opener(_Stay).open(address(), timeout=patience).close()
    except urllib.error.HTTPError as error:
        error.close()
    except urllib.error.URLError as error:
        return None if isinstance(error.reason, ssl.SSLError) else _reason(error.reason)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return _reason(error)
    return None


def _reason(error: object) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
