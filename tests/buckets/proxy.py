"""A proxy in front of a store that cuts, delays, and answers in the store's place, at any byte.

It passes on one request a connection, so that its faults are those of a request: `FAULTS` says
which. What becomes of a request is drawn, as is the byte at which it happens.
"""

import contextlib
import random
import socket
import struct
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Iterator

FAULTS = {
    "request cut": "the store has the first bytes of a request, the client a broken connection",
    "answer cut": "the store does it, and the client has the first bytes of the answer",
    "early": "the store does it only after a while, and maybe after the client is gone",
    "late": "the rest of the answer comes after a while",
    "refused": "an answer with a status, and the store never hears of the request",
    "denied": "the store does it, and the answer has such a status nevertheless",
}
STATUSES = (500, 503, 412)
_END = b"\r\n\r\n"
_RESET = struct.pack("ii", 1, 0)  # for SO_LINGER: not a byte more, and the other side is told


class Proxy:
    """Listens on a port of its own.

    Attributes:
        port: to connect to instead of the store's.
        chance: that a request meets a fault.
        met: how often each fault was met.

    Args:
        store: the port of the store on this machine.
        seed: of what is drawn.
        chance: as above.
    """

    def __init__(self, store: int, seed: int = 0, chance: float = 0.2) -> None:
        self.store, self.chance = store, chance
        self.met: Counter[str] = Counter()
        self._draw, self._lock = random.Random(seed), threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._listen, daemon=True).start()

    def instead_of(self, address: str) -> str:
        """The address of the store, with this port in it."""
        return address.replace(f":{self.store}", f":{self.port}", 1)

    def close(self) -> None:
        """Take no more connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            request = _request(client)
            if request:
                self._pass_on(client, request)

    def _pass_on(self, client: socket.socket, request: bytes) -> None:
        fault, share, pause, status = self._drawn()
        if fault == "early":
            time.sleep(pause)
        if fault == "request cut":
            first = int(share * (len(request) + 1))
            self._ask(request[:first], whole=first == len(request))
            _reset(client)
            return
        answer = b"" if fault == "refused" else self._ask(request)
        if fault in ("refused", "denied"):
            answer = _refusal(status)
        first = int(share * (len(answer) + 1))
        client.sendall(answer[:first])
        if fault == "answer cut":
            _reset(client)
            return
        if fault == "late":
            time.sleep(pause)
        client.sendall(answer[first:])

    def _drawn(self) -> tuple[str, float, float, int]:
        """A fault or none, where and for how long, and a status."""
        with self._lock:
            fault = self._draw.choice([*FAULTS]) if self._draw.random() < self.chance else ""
            self.met[fault or "none"] += 1
            share, pause = self._draw.random(), self._draw.uniform(0.02, 0.4)
            return fault, share, pause, self._draw.choice(STATUSES)

    def _ask(self, request: bytes, whole: bool = True) -> bytes:
        """What the store answers to a request, or to its first bytes and nothing more."""
        with socket.create_connection(("127.0.0.1", self.store)) as store:
            store.sendall(request)
            if not whole:
                _reset(store)
                return b""
            return b"".join(iter(lambda: store.recv(1 << 16), b""))


def _request(client: socket.socket) -> bytes:
    """A whole request, which asks to close the connection after its answer; empty if cut off."""
    data = b""
    while _END not in data:
        piece = client.recv(1 << 16)
        if not piece:
            return b""
        data += piece
    head, _, body = data.partition(_END)
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
    fields = dict(line.lower().split(b":", 1) for line in lines[1:])
    assert b"transfer-encoding" not in fields, fields
    size = int(fields.get(b"content-length", b"0"))
    while len(body) < size:
        piece = client.recv(1 << 16)
        if not piece:
            return b""
        body += piece
    return b"\r\n".join([*lines, b"Connection: close"]) + _END + body


def _refusal(status: int) -> bytes:
    text = b"<Error><Code>Fault</Code><Message>of the proxy</Message></Error>"
    head = f"HTTP/1.1 {status} Fault\r\nContent-Type: application/xml\r\nConnection: close\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(text) + text


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    connection.close()


@contextlib.contextmanager
def proxy(address: str, seed: int = 0, chance: float = 0.2) -> Iterator[Proxy]:
    """A proxy in front of the store at an address."""
    port = urllib.parse.urlsplit(address).port
    assert port is not None
    made = Proxy(port, seed, chance)
    try:
        yield made
    finally:
        made.close()
