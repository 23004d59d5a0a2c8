"""A local S3 server (moto) that counts requests and fails on demand."""

import contextlib
import itertools
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import s3fs
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from tests.serving import serving

KEY, SECRET = "tester", "wonderful/secret"
ERROR = "<Error><Code>{}</Code><Message>{}</Message></Error>"
_buckets = itertools.count()  # moto shares one state between all servers of a process
Answer = Callable[[str, list[tuple[str, str]]], Any]


class S3Server:
    """Answers like S3, from memory.

    Attributes:
        address: for AWS_ENDPOINT_URL.
        asked: number of requests by "METHOD name", the last part of the path, whatever the answer.
        faults: "METHOD name" to how often it is answered with 500 before it succeeds.
        moments: "METHOD name" to a function to call when it arrives; it is answered with 500.
    """

    def __init__(self) -> None:
        self.address = ""
        self.asked: Counter[str] = Counter()
        self.faults: dict[str, int] = {}
        self.moments: dict[str, Callable[[], object]] = {}
        self._moto = DomainDispatcherApplication(create_backend_app)

    def __call__(self, environ: dict[str, Any], answer: Answer) -> Iterable[bytes]:
        name = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO'].rpartition('/')[2]}"
        self.asked[name] += 1
        if f"Credential={KEY}/" not in environ.get("HTTP_AUTHORIZATION", ""):
            text = ERROR.format("InvalidAccessKeyId", "The key does not exist in our records.")
            return self._refuse(answer, "403 Forbidden", text, environ)
        moment = self.moments.pop(name, None)
        if moment is not None:
            moment()
        if moment is not None or self.faults.get(name, 0):
            self.faults[name] = max(self.faults.get(name, 0) - 1, 0)
            text = ERROR.format("InternalError", "We encountered an internal error.")
            return self._refuse(answer, "500 Internal Server Error", text, environ)
        result: Iterable[bytes] = self._moto(environ, answer)
        return result

    def _refuse(
        self, answer: Answer, status: str, text: str, environ: dict[str, Any]
    ) -> Iterable[bytes]:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        if length or environ.get("wsgi.input_terminated"):
            environ["wsgi.input"].read(length or -1)  # or a sending client sees a broken pipe
        answer(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(text)))])
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else text.encode()]


class _Quiet(WSGIRequestHandler):
    def log_request(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def s3_server(listener: socket.socket | None = None) -> Iterator[S3Server]:
    """Answer for a while.

    Args:
        listener: where; None: at a port of this machine.
    """
    app = S3Server()
    with listener or socket.create_server(("127.0.0.1", 0)) as bound:
        host, port = bound.getsockname()
        server = make_server(
            host, port, app, threaded=True, request_handler=_Quiet, fd=bound.fileno()
        )
    app.address = f"http://{host}:{port}"
    with server, serving(server):
        yield app


@contextlib.contextmanager
def s3_clients(**changes: str | None) -> Iterator[None]:
    """Make s3fs reconnect with a changed environment; None removes a variable."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in changes.items():
            patch.delenv(name, raising=False) if value is None else patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        yield
    s3fs.S3FileSystem.clear_instance_cache()


def s3_environment(server: S3Server) -> dict[str, str]:
    """The environment that makes s3fs use only this server."""
    return {
        "AWS_ENDPOINT_URL": server.address,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": "/nowhere",
        "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",  # no retries by botocore, so that ours are visible
    }


def new_bucket(server: S3Server) -> str:
    """The name of a new bucket; resets faults and request counts."""
    name = f"bucket-{next(_buckets)}"
    s3fs.S3FileSystem().mkdir(name)
    server.faults.clear()
    server.asked.clear()
    return name
