"""Azurite, Microsoft's emulator of Azure Blob Storage, on a free port: `npm install azurite`."""

import base64
import contextlib
import email.utils
import hashlib
import hmac
import itertools
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

ACCOUNT = "devstoreaccount1"  # it and its key are known to all
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
VERSION = "2021-08-06"


@contextlib.contextmanager
def azurite(folder: Path) -> Iterator[tuple[dict[str, str], Callable[[], str]]]:
    """Start it; how clients find it, and what makes the address of a new container.

    Args:
        folder: in which `npm install azurite` was run.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = folder / "node_modules" / ".bin" / "azurite-blob"
    command = [str(program), "--blobPort", str(port), "--inMemoryPersistence", "--silent",
               "--skipApiVersionCheck", "--disableTelemetry"]  # fmt: skip
    endpoint, numbers = f"http://127.0.0.1:{port}/{ACCOUNT}", itertools.count()
    env = {
        "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
        "AZURE_STORAGE_ACCOUNT_KEY": KEY,
        "AZURE_STORAGE_ENDPOINT": endpoint,
    }

    def new() -> str:
        name = f"bucket-{next(numbers)}"
        _make_container(endpoint, name)
        return f"az://{name}/runs"

    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _await(port, process)
            yield env, new
        finally:
            process.terminate()


def _await(port: int, process: "subprocess.Popen[bytes]") -> None:
    while process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.1)
    raise SystemExit(f"azurite did not start: exit status {process.returncode}")


def _make_container(endpoint: str, name: str) -> None:
    # obstore makes none. The signature is that of "Authorize with Shared Key" in Azure's reference.
    headers = {"x-ms-date": email.utils.formatdate(usegmt=True), "x-ms-version": VERSION}
    named = "".join(f"{key}:{value}\n" for key, value in headers.items())
    text = "PUT" + 12 * "\n" + f"{named}/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
    digest = hmac.digest(base64.b64decode(KEY), text.encode(), hashlib.sha256)
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
    address = f"{endpoint}/{name}?restype=container"
    urllib.request.urlopen(urllib.request.Request(address, method="PUT", headers=headers)).close()
