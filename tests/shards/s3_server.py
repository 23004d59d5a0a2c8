"""A local server that speaks S3 (moto's), which counts what it is asked and errs when told to."""

import contextlib
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import s3fs
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

KEY, SECRET = "tester", "wonderful/secret"
ERROR = "<Error><Code>{}</Code><Message>{}</Message></Error>"
_buckets = itertools.count()  # moto keeps one memory for all servers of a process
Answer = Callable[[str, list[tuple[str, str]]], Any]


class S3Server:
    """Answers as S3 does, from memory.

    Attributes:
        address: for AWS_ENDPOINT_URL.
        asked: how often each "METHOD name" was, whatever the answer; the last part of the path.
        faults: "METHOD name" to how often it is answered with 500 before it is heard.
        moments: "METHOD name" to what shall happen when it comes, which is then answered with 500.
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
            environ["wsgi.input"].read(length or -1)  # who still sends would see a broken pipe
        answer(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(text)))])
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else text.encode()]


class _Quiet(WSGIRequestHandler):
    def log_request(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def s3_server() -> Iterator[S3Server]:
    app = S3Server()
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_Quiet)
    app.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield app
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def s3_clients(**changes: str | None) -> Iterator[None]:
    """Make s3fs connect anew, with a changed environment; None takes a variable away."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in changes.items():
            patch.delenv(name, raising=False) if value is None else patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        yield
    s3fs.S3FileSystem.clear_instance_cache()


def s3_environment(server: S3Server) -> dict[str, str]:
    """What makes s3fs talk to this server, and to nothing else on the machine."""
    return {
        "AWS_ENDPOINT_URL": server.address,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": "/nowhere",
        "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",  # botocore's own, so that ours are seen
    }


def new_bucket(server: S3Server) -> str:
    """A fresh bucket's name; from here on faults and requests count."""
    name = f"bucket-{next(_buckets)}"
    s3fs.S3FileSystem().mkdir(name)
    server.faults.clear()
    server.asked.clear()
    return name
