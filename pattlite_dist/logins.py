"""Logins and signatures in addresses: kept out of everything that is written or shown.

`put_away` takes them out of a text as it comes in. It keeps them in this process's environment,
which loader processes and jobs inherit, and where a user may put them as well. `complete` puts them
back where an address is opened.
"""

import netrc
import os
import re
import urllib.parse
from collections.abc import Callable
from typing import NamedTuple

from pattlite_dist.errors import UserError

VARIABLE = "PATTLITE_SHARDS"  # whole addresses, separated by white space
HOW_TO_GIVE = (
    f"give the address with its login or signature again, in {VARIABLE} or on the command line; "
    "a login may also be in ~/.netrc"
)
_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*://"
_WEB = ("http", "https")
# The value of an option may be an address, with anything in it, or several in a sweep; elsewhere,
# as in a command, an address ends at what would end it in a shell.
_IS_ADDRESS = re.compile(rf"(?:-{{0,2}}[\w.-]+=)?{_SCHEME}")
_ALONE = re.compile(rf"{_SCHEME}(?:(?!,{_SCHEME}).)*", re.DOTALL)
_WITHIN = re.compile(rf"{_SCHEME}(?:(?!,{_SCHEME})[^\s'\"|<>`])*")
_IN_A_COMMAND = re.compile(
    r"\s(?:-u|--user)[\s='\"]*[^\s:'\"$]+:[^\s'\"$]"
    r"|(?:authorization:\s*\w+\s|\b[\w-]*(?:token|password|secret|api[-_]?key)\s*[=:]\s*)"
    r"['\"]?[^\s'\"$<`]",
    re.IGNORECASE,
)


class _Parts(NamedTuple):
    """An address: without its login and query, and those two."""

    bare: str
    login: str
    query: str

    @property
    def secret(self) -> bool:
        """Whether there is anything to hide; a user's name alone opens nothing but on the web."""
        web = self.bare.partition("://")[0].lower() in _WEB
        return bool(self.query) or ":" in self.login or (web and bool(self.login))


def split_login(address: str) -> tuple[str, str]:
    """An address without `user:password@`, and that part."""
    scheme, mark, rest = address.partition("://")
    host, slash, path = rest.partition("/")
    login, _, host = host.rpartition("@")
    return f"{scheme}{mark}{host}{slash}{path}", login


def without_secrets(text: str) -> str:
    """An address or another text for messages, its addresses without login and query."""
    return _each(text, lambda address: split_login(address.partition("?")[0])[0])


def is_web(address: str) -> bool:
    """Whether an address is of a web server."""
    return address.lower().startswith(("http://", "https://"))


def put_away(text: str) -> str:
    """A text without the secrets of its addresses, which this process and its children remember.

    In a command, what the shell fills in (`$TOKEN`) is no secret and stays.

    Raises:
        UserError: a command contains a login outside of an address, or a login cannot be told from
            the rest of its address.
    """
    command = _of_a_command(text)

    def one(address: str) -> str:
        parts = _parts(address)
        if not parts.secret or (command and "$" in parts.login + parts.query):
            return address
        _remember(parts.bare, address)
        return parts.bare

    bare = _each(text, one)
    if command and _IN_A_COMMAND.search(bare):
        raise UserError(
            "a pipe: command contains a login, which would be stored with the run; write it as a "
            "variable that the shell fills in, such as $TOKEN, and export that"
        )
    return bare


def complete(text: str) -> str:
    """An address, or a command with addresses, with the secrets that are known for it."""
    known = {_parts(address).bare.rstrip("/"): address for address in _known()}
    if not known:
        return text
    return _each(text, lambda address: _filled(address, known))


def login_for(address: str) -> str:
    """The `user:password` that .netrc has for a web server; empty if none."""
    host = urllib.parse.urlsplit(address).hostname
    try:
        found = netrc.netrc(os.environ.get("NETRC")).hosts.get(host or "")
    except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
        return ""
    if found is None:
        return ""
    name, _, password = found
    return ":".join(urllib.parse.quote(part or "", safe="") for part in (name, password))


def _filled(address: str, known: dict[str, str]) -> str:
    whole = known.get(address.rstrip("/"))
    return address if whole is None or _parts(address).secret else whole


def _each(text: str, change: Callable[[str], str]) -> str:
    pattern = _ALONE if _IS_ADDRESS.match(text) else _WITHIN
    return pattern.sub(lambda match: change(match[0]), text)


def _of_a_command(text: str) -> bool:
    return text.partition("=")[2].startswith("pipe:") or text.startswith("pipe:")


def _parts(address: str) -> _Parts:
    front, mark, query = address.partition("?") if is_web(address) else (address, "", "")
    bare, login = split_login(front)
    host = bare.partition("://")[2].partition("/")[0]
    port = "" if host.startswith("[") else host.partition(":")[2]
    if not login and port and not port.isdecimal() and "@" in address.partition(host)[2]:
        # Without the address, which may begin with half of a password.
        raise UserError(
            "the login in an address contains / or ?, which would end it; write them as %2F and %3F"
        )
    return _Parts(bare, login, query if mark else "")


def _known() -> list[str]:
    return os.environ.get(VARIABLE, "").split()


def _remember(bare: str, address: str) -> None:
    others = [known for known in _known() if _parts(known).bare.rstrip("/") != bare.rstrip("/")]
    os.environ[VARIABLE] = " ".join([*others, re.sub(r"\s", _as_percent, address)])


def _as_percent(match: "re.Match[str]") -> str:
    return urllib.parse.quote(match[0])
