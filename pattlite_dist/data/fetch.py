"""Bytes from where the shards lie: a folder, a web server, an object store, a command.

Networks fail and come back. What may pass (a refused connection, a 5xx answer, silence, bytes that
are not the manifest's) is tried again after a pause; what will not (404, no such file) is told at
once.
"""

import base64
import contextlib
import http.client
import os
import selectors
import signal
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pattlite_dist.errors import UserError
from pattlite_dist.location import is_local
from pattlite_dist.shards.manifest import (
    MANIFEST_NAME,
    Manifest,
    ShardInfo,
    load_manifest,
    parse_manifest,
)
from pattlite_dist.shards.verify import read_shard_file, wrong_sizes
from pattlite_dist.stores import (
    Final,
    Transient,
    open_store,
    split_login,
    store_errors,
    tried_again,
)

T = TypeVar("T")
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Origin:
    """Where a shard set lies, and how patiently it is asked for.

    Attributes:
        root: a folder, an `http(s)://` address, an object store's (`s3://`, `gs://`, or any that
            fsspec knows), or a `pipe:` command in which `{name}` stands for the file.
        allow_pipe: whether `root` may be a command.
        retries: further tries after a failure that may pass.
        timeout: seconds of silence after which a connection or a command is given up.
    """

    root: str
    allow_pipe: bool = False
    retries: int = 4
    timeout: float = 60.0

    @property
    def pipe(self) -> bool:
        """Whether it is a command."""
        return self.root.startswith("pipe:")

    @property
    def local(self) -> bool:
        """Whether it is a folder that this machine sees."""
        return is_local(self.root)

    def address(self, name: str) -> str:
        """Where one file is."""
        if self.pipe:  # replaced, not formatted: a shell has braces of its own
            return self.root.replace("{name}", name)
        return f"{self.root.rstrip('/')}/{name}"

    def shown(self, name: str) -> str:
        """Where one file is, for messages: without a password."""
        return self.address(name) if self.pipe else split_login(self.address(name))[0]

    def read(self, name: str, parse: Callable[[bytes], T], most: int = -1) -> T:
        """What `parse` makes of a file's bytes, which are fetched again if it refuses them.

        Args:
            name: of the file.
            parse: raises `UserError` where the bytes are not what they should be.
            most: a server or a command is read no further than so many bytes; -1 reads all.

        Raises:
            UserError: the file cannot be had or stays bad, or a command is not allowed.
        """
        if self.local:  # what a disk holds does not mend itself
            return parse(read_shard_file(Path(self.root) / name))
        if self.pipe and not self.allow_pipe:
            raise UserError(
                f"data.shards is {self.root!r}, which would run a shell command; "
                "set data.allow_pipe=true if that is what you want"
            )

        def told(error: Exception) -> str:
            if isinstance(error, UserError):  # of `parse`
                return str(error)
            return f"cannot fetch {self.shown(name)}: {error}; check the address"

        passing = (Transient, UserError)
        try:
            return tried_again(lambda: parse(self._once(name, most)), self.retries, passing, told)
        except Final as error:
            raise UserError(f"cannot fetch {self.shown(name)}: {error}") from error
        except passing as error:
            raise UserError(f"{told(error)} (tried {self.retries + 1} times)") from error

    def _once(self, name: str, most: int) -> bytes:
        address = self.address(name)
        if self.pipe:
            return _read_command(address.removeprefix("pipe:"), most, self.timeout)
        if address.startswith(("http://", "https://")):
            return _read_http(address, most, self.timeout)
        return _read_store(address)


def _read_http(address: str, most: int, timeout: float) -> bytes:
    address, login = split_login(address)
    request = urllib.request.Request(address)
    if login:
        code = base64.b64encode(urllib.parse.unquote(login).encode()).decode()
        request.add_header("Authorization", f"Basic {code}")
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            data: bytes = answer.read(most if most >= 0 else None)
            length = int(answer.headers.get("Content-Length") or 0)
    except urllib.error.HTTPError as error:
        error.close()
        again = error.code >= 500 or error.code in (408, 425, 429)  # these ask for another try
        kind = Transient if again else Final
        raise kind(f"the server answers {error.code} {error.reason}") from error
    except TimeoutError as error:
        raise Transient(f"no byte for {timeout:g} s") from error
    except http.client.InvalidURL as error:
        raise Final(f"{error}; check the address") from error
    except (OSError, http.client.HTTPException) as error:
        raise Transient(str(getattr(error, "reason", error))) from error
    if len(data) < (length if most < 0 else min(length, most)):
        raise Transient(f"cut off after {len(data)} of {length} bytes")
    return data


def _read_store(address: str) -> bytes:
    with store_errors(address):
        store, path = open_store(address)
        return bytes(store.cat_file(path))


def _read_command(command: str, most: int, timeout: float) -> bytes:
    data = bytearray()
    process = subprocess.Popen(command, shell=True, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    try:
        with process.stdout as stream, selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            while most < 0 or len(data) < most:
                if not selector.select(timeout):
                    raise Transient(f"no byte for {timeout:g} s")
                chunk = os.read(stream.fileno(), _CHUNK)
                if not chunk:
                    break
                data += chunk
            else:
                return bytes(data[:most])
        status = process.wait(timeout)
    except subprocess.TimeoutExpired as error:
        raise Transient(f"still runs {timeout:g} s after its last byte") from error
    finally:
        with contextlib.suppress(ProcessLookupError):  # the shell and all that it started
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if status:
        raise Transient(f"exit status {status}")
    return bytes(data)


def fetch_manifest(origin: Origin) -> Manifest:
    """The manifest of the shards at an origin.

    Raises:
        UserError: it cannot be read or is not a manifest.
    """
    if origin.local:
        return load_manifest(Path(origin.root))
    return origin.read(
        MANIFEST_NAME, lambda data: parse_manifest(data, origin.shown(MANIFEST_NAME))
    )


def check_sizes(origin: Origin, shards: list[ShardInfo]) -> None:
    """Compare shards in a local folder with the manifest's word before hours are spent on them.

    The hash of a shard is checked when it is first read; an address is not asked at all.

    Raises:
        UserError: a shard is missing or has another size; names it.
    """
    problems = wrong_sizes(Path(origin.root), shards) if origin.local else []
    if problems:
        raise UserError(problems[0])
