"""Files from web servers; a login goes to the server that it is for, and to no other."""

import base64
import contextlib
import http.client
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from pattlite_dist.logins import HOW_TO_GIVE, login_for, split_login, without_secrets
from pattlite_dist.stores import Final, Transient

_PORTS = {"http": 80, "https": 443}


class _Redirect(urllib.request.HTTPRedirectHandler):
    """Follows a redirect; without the login, unless it leads to the same server."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        if new is not None and not _same_server(req.full_url, newurl):
            new.remove_header("Authorization")
        return new


def _same_server(old: str, new: str) -> bool:
    """Whether scheme, host and port are the same, or HTTPS instead of HTTP on the same host."""
    (before, host, port), (after, other, to) = map(_server, (old, new))
    upgraded = (before, port, after, to) == ("http", 80, "https", 443)
    return host == other and ((before, port) == (after, to) or upgraded)


def _server(address: str) -> tuple[str, str | None, int | None]:
    parts = urllib.parse.urlsplit(address)
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)


def read_web(address: str, most: int, timeout: float) -> bytes:
    """The bytes of a file.

    Args:
        address: with a login if there is one; otherwise .netrc is asked.
        most: maximum number of bytes to read; -1 reads all.
        timeout: seconds without data.

    Raises:
        Transient: a retry may help.
        Final: a retry would meet the same failure. Neither names the address.
    """
    try:
        address, login = split_login(address)
        request = urllib.request.Request(address)
        login = login or login_for(address)
    except ValueError:
        raise Final("this is not a valid address; check it") from None
    if login:
        code = base64.b64encode(urllib.parse.unquote(login).encode()).decode()
        request.add_header("Authorization", f"Basic {code}")
    try:
        with urllib.request.build_opener(_Redirect).open(request, timeout=timeout) as answer:
            data: bytes = answer.read(most if most >= 0 else None)
            length = int(answer.headers.get("Content-Length") or 0)
    except urllib.error.HTTPError as error:
        with contextlib.suppress(Exception):
            error.close()
        said = without_secrets(" ".join(str(error.reason).split()))  # may name a redirect
        reason = f"the server responded {error.code} {said}"
        if error.code in (401, 403):
            raise Final(f"{reason}; {HOW_TO_GIVE}") from error
        again = error.code >= 500 or error.code in (408, 425, 429)  # these are worth retrying
        raise (Transient if again else Final)(reason) from error
    except TimeoutError as error:
        raise Transient(f"no data for {timeout:g} s") from error
    except (http.client.InvalidURL, ValueError):  # their texts contain the address
        raise Final("this is not a valid address, or leads to none; check it") from None
    except (OSError, http.client.HTTPException) as error:
        raise Transient(str(getattr(error, "reason", error))) from error
    if len(data) < (length if most < 0 else min(length, most)):
        raise Transient(f"cut off after {len(data)} of {length} bytes")
    return data
