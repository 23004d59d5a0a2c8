"""A server that answers as a cloud's metadata service, as far as the clouds' pages say."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from tests.serving import serving

AWS, GOOGLE, AZURE = "AWS", "Google Cloud", "Azure"
MACHINE = "set_3"  # its name, as Azure knows it


class Answer(NamedTuple):
    status: int = 404
    text: str = ""
    headers: Mapping[str, str] = {}


class Cloud:
    """One of the clouds, and what it knows of the machine that asks.

    Attributes:
        kind: which cloud.
        says: its notice; what it answers instead of "no" once the machine is taken back.
        broken: its answer to everything, if set.
        silent: whether it takes the question and never answers.
        only: the address of the machine that AWS takes back, if not of each that asks.
        asked: paths, as they were asked for.
        address: of the server.
    """

    def __init__(self, kind: str) -> None:
        self.kind, self.says, self.address, self.only = kind, "", "", ""
        self.broken: Answer | None = None
        self.silent = False
        self.asked: list[str] = []
        self.over = threading.Event()
        self._tokens = 0
        self._changed = threading.Condition()

    def take(self, at: float, machine: str = MACHINE, event: str = "Preempt") -> None:
        """Give notice that a machine is taken at a time, seconds since 1970."""
        moment = datetime.fromtimestamp(at, timezone.utc)
        aws = {"action": "terminate", "time": f"{moment:%Y-%m-%dT%H:%M:%SZ}"}
        azure = {
            "EventId": "C7061BAC-AFDC-4513-B24B-AA5F13A16123", "EventStatus": "Scheduled",
            "EventType": event, "ResourceType": "VirtualMachine", "Resources": ["set_1", machine],
            "NotBefore": format_datetime(moment, usegmt=True), "Description": "",
            "EventSource": "Platform", "DurationInSeconds": -1,
        }  # fmt: skip
        events = {"DocumentIncarnation": 2, "Events": [azure]}
        says = {AWS: json.dumps(aws), GOOGLE: "TRUE", AZURE: json.dumps(events)}
        with self._changed:
            self.says = says[self.kind]
            self._changed.notify_all()

    def forget_tokens(self) -> None:
        """Those that AWS has given out are worth nothing any more."""
        self._tokens += 1

    def answer(self, method: str, address: str, headers: Mapping[str, str], client: str) -> Answer:
        parts = urlsplit(address)
        self.asked.append(parts.path)
        if self.silent:
            self.over.wait()
        if self.broken is not None:
            return self.broken
        what = f"{method} {parts.path}"
        if self.kind == AWS:
            return self._aws(what, headers, self.only in ("", client))
        ask = self._google if self.kind == GOOGLE else self._azure
        return ask(what, parse_qs(parts.query), headers)

    def _aws(self, what: str, headers: Mapping[str, str], taken: bool) -> Answer:
        token = f"AQAEA{self._tokens}=="
        if what == "PUT /latest/api/token":
            seconds = headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
            return Answer(200, token) if 0 < int(seconds or 0) <= 21600 else Answer(400)
        if headers.get("X-aws-ec2-metadata-token") != token:
            return Answer(401)
        if what == "GET /latest/meta-data/spot/instance-action" and self.says and taken:
            return Answer(200, self.says)
        return Answer(404)

    def _google(self, what: str, query: dict[str, list[str]], headers: Mapping[str, str]) -> Answer:
        if headers.get("Metadata-Flavor") != "Google":
            return Answer(403)
        if what != "GET /computeMetadata/v1/instance/preempted":
            return Answer(404, "", {"Metadata-Flavor": "Google"})

        def etag() -> str:
            return f"e7{bool(self.says):x}"

        if query.get("wait_for_change") == ["true"]:
            with self._changed:
                wanted = [etag()] == query.get("last_etag", [etag()])
                if wanted:
                    self._changed.wait(float(query["timeout_sec"][0]))
        return Answer(200, self.says or "FALSE", {"Metadata-Flavor": "Google", "ETag": etag()})

    def _azure(self, what: str, query: dict[str, list[str]], headers: Mapping[str, str]) -> Answer:
        if headers.get("Metadata") != "true" or "api-version" not in query:
            return Answer(400)
        if what == "GET /metadata/instance/compute/name" and query.get("format") == ["text"]:
            return Answer(200, MACHINE)
        if what == "GET /metadata/scheduledevents":
            return Answer(200, self.says or '{"DocumentIncarnation":1,"Events":[]}')
        return Answer(404)

    def close(self) -> None:
        self.over.set()
        with self._changed:
            self._changed.notify_all()


@contextlib.contextmanager
def served(cloud: Cloud, listener: socket.socket | None = None) -> Iterator[Cloud]:
    """Let a cloud answer.

    Args:
        cloud: that answers.
        listener: a socket that is bound already, as in another network.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, text, headers = cloud.answer(
                self.command, self.path, dict(self.headers), self.client_address[0]
            )
            with contextlib.suppress(OSError):  # who asked has not waited
                self.send_response(status)
                for name, value in {"Content-Length": str(len(text)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text.encode())

        do_PUT = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with listener or socket.create_server(("127.0.0.1", 0)) as bound:
        server = ThreadingHTTPServer(bound.getsockname()[:2], Handler, bind_and_activate=False)
        server.socket.close()
        server.socket = bound
        server.server_activate()
        cloud.address = "http://{}:{}".format(*bound.getsockname()[:2])
        with serving(server):
            try:
                yield cloud
            finally:
                cloud.close()


def addresses(cloud: Cloud) -> dict[str, str]:
    """The environment in which all clouds' services are asked for at this server.

    Two of them have one address in fact, and each cloud answers the others' questions somehow.
    """
    return {
        "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"{cloud.address}/",
        "GCE_METADATA_HOST": cloud.address.removeprefix("http://"),
        "PATTLITE_AZURE_METADATA": cloud.address,
    }
