"""What the clouds' metadata services say of a spot machine that is about to be taken back.

Each answers on the machines of its own cloud, at an address that exists only there. The methods of
a service raise OSError or ValueError if it does not answer, or not as it should.
"""

import http.client
import json
import os
import re
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar, NamedTuple, Protocol
from urllib.parse import urlsplit

LINK_LOCAL = "http://169.254.169.254"
_QUICK = 2.0  # seconds that an answer may take
_MOST = 65536  # bytes of an answer


class Notice(NamedTuple):
    """A machine is about to be taken back.

    Attributes:
        ends: when, seconds since 1970; None if that is unknown.
    """

    ends: float | None


class Answer(NamedTuple):
    """Of a server.

    Attributes:
        status: of HTTP.
        headers: likewise.
        text: the beginning of its content.
    """

    status: int
    headers: Message
    text: str


class Service(Protocol):
    """A cloud's metadata service.

    Attributes:
        name: the cloud's.
    """

    name: str

    def answers(self) -> bool:
        """Whether this machine is of that cloud."""

    def notice(self) -> Notice | None:
        """The notice, if there is one."""


def ask(
    address: str,
    path: str,
    headers: Mapping[str, str],
    method: str = "GET",
    seconds: float | None = None,
) -> Answer:
    """Ask a server, whatever proxies the environment names.

    Args:
        address: with or without `http://`.
        path: with a query.
        headers: to send.
        method: of HTTP.
        seconds: that each part of the answer may take; None: few.
    """
    parts = urlsplit(address if "//" in address else f"//{address}")
    limit = _QUICK if seconds is None else seconds
    link = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=limit)
    try:
        link.request(method, path, headers=dict(headers))
        response = link.getresponse()
        text = response.read(_MOST).decode("utf-8", "replace")
        return Answer(response.status, response.headers, text)
    except http.client.HTTPException as error:
        raise OSError(f"{address} does not speak HTTP: {error!r}") from error
    finally:
        link.close()


class Aws:
    """Amazon's, by a token (IMDSv2). A notice comes two minutes before."""

    name = "AWS"
    _TOKEN = "X-aws-ec2-metadata-token"  # a header

    def __init__(self, env: Mapping[str, str]) -> None:
        self._address = env.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", LINK_LOCAL)
        self._disabled = env.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true"
        self._token = ""

    def answers(self) -> bool:
        """Whether it gives out a token."""
        if self._disabled:
            return False
        wanted = {f"{self._TOKEN}-ttl-seconds": "21600"}
        answer = ask(self._address, "/latest/api/token", wanted, "PUT")
        self._token = answer.text.strip()
        return answer.status == 200 and bool(re.fullmatch(r"[\w+/=-]+", self._token))

    def notice(self) -> Notice | None:
        """The instance action; there is none (404) until it is decided."""
        path = "/latest/meta-data/spot/instance-action"
        answer = ask(self._address, path, {self._TOKEN: self._token})
        if answer.status == 401 and self.answers():  # the token has run out
            answer = ask(self._address, path, {self._TOKEN: self._token})
        tree = _tree(answer)
        return Notice(_moment(tree.get("time"))) if isinstance(tree.get("action"), str) else None


class Google:
    """Google's. It answers a question once there is a change, and gives no time: it is 30 s."""

    name = "Google Cloud"
    _PATH = "/computeMetadata/v1/instance/preempted"
    _FLAVOR = "Metadata-Flavor"
    _GRACE = 30.0
    _WAIT = 60  # seconds

    def __init__(self, env: Mapping[str, str]) -> None:
        self._address = env.get("GCE_METADATA_HOST", "metadata.google.internal")
        self._seen = "0"

    def answers(self) -> bool:
        """Whether it says anything about preemption, and that it is Google's."""
        answer = ask(self._address, self._PATH, {self._FLAVOR: "Google"})
        return (
            answer.status == 200
            and answer.headers.get(self._FLAVOR) == "Google"
            and answer.text.strip() in ("TRUE", "FALSE")
        )

    def notice(self) -> Notice | None:
        """Wait for a while until the machine is preempted."""
        query = f"?wait_for_change=true&timeout_sec={self._WAIT}&last_etag={self._seen}"
        answer = ask(
            self._address, self._PATH + query, {self._FLAVOR: "Google"}, seconds=self._WAIT + _QUICK
        )
        if answer.status != 200:
            return None
        etag = answer.headers.get("ETag", "")
        self._seen = etag if re.fullmatch(r"\w+", etag) else "0"
        return Notice(time.time() + self._GRACE) if answer.text.strip() == "TRUE" else None


class Azure:
    """Microsoft's. An event is told to all machines of a set, and says which it is for."""

    name = "Azure"
    ADDRESS = "PATTLITE_AZURE_METADATA"
    _HEADERS: ClassVar = {"Metadata": "true"}
    _FIRST = 130.0  # seconds: the first question makes it begin to look for events

    def __init__(self, env: Mapping[str, str]) -> None:
        self._address = env.get(self.ADDRESS, LINK_LOCAL)
        self._machine = ""

    def answers(self) -> bool:
        """Whether it knows the machine's name."""
        path = "/metadata/instance/compute/name?api-version=2021-02-01&format=text"
        answer = ask(self._address, path, self._HEADERS)
        self._machine = answer.text.strip()
        return answer.status == 200 and bool(re.fullmatch(r"[\w.-]+", self._machine))

    def notice(self) -> Notice | None:
        """The event by which this machine is preempted."""
        path = "/metadata/scheduledevents?api-version=2020-07-01"
        tree = _tree(ask(self._address, path, self._HEADERS, seconds=self._FIRST))
        for event in _items(tree.get("Events")):
            if not isinstance(event, dict) or event.get("EventType") != "Preempt":
                continue
            names = [str(name).lower() for name in _items(event.get("Resources"))]
            if self._machine.lower() in names:
                return Notice(_moment(event.get("NotBefore")))
        return None


def find(env: Mapping[str, str] = os.environ) -> Service | None:
    """The service that answers here, if one does.

    Args:
        env: the environment, which may name other addresses.
    """
    services: tuple[Service, ...] = (Aws(env), Azure(env), Google(env))
    for service in services:
        try:
            if service.answers():
                return service
        except (OSError, ValueError):
            continue
    return None


def _tree(answer: Answer) -> dict[str, Any]:
    """The content of an answer; empty unless it is a JSON object."""
    try:
        tree = json.loads(answer.text) if answer.status == 200 else {}
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return tree if isinstance(tree, dict) else {}


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _moment(text: Any) -> float | None:
    """A time as AWS writes it (2026-09-18T08:22:00Z), or Azure (Fri, 18 Sep 2026 08:22:00 GMT)."""
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(re.sub("Z$", "+00:00", text))
    except ValueError:
        try:
            moment = parsedate_to_datetime(text)
        except (ValueError, TypeError, IndexError, OverflowError):
            return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return moment.timestamp()
