"""Reads shard files from a folder, a web server, an object store, or a command.

Transient failures (a refused connection, a 5xx response, a timeout, bytes that do not match the
manifest, a file system that does not answer) are retried after a pause; permanent ones (404, no
such file) are reported at once.
"""

import contextlib
import os
import selectors
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pattlite_dist.data.settings import DataConfig
from pattlite_dist.data.web import read_web
from pattlite_dist.errors import Unreachable, UserError
from pattlite_dist.location import is_local
from pattlite_dist.logins import complete, is_web, without_secrets
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
    store_errors,
    tried_again,
)

T = TypeVar("T")
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Origin:
    """Where a shard set is, and how failures to read it are handled.

    Attributes:
        root: a folder, an `http(s)://` address, an object-store address (`s3://`, `gs://`, or any
            that fsspec supports), or a `pipe:` command in which `{name}` stands for the file. What
            `logins` knows for it is added whenever a file is read.
        allow_pipe: whether `root` may be a command.
        retries: number of retries after a transient failure.
        timeout: seconds without data after which a connection or a command is aborted.
    """

    root: str
    allow_pipe: bool = False
    retries: int = 4
    timeout: float = 60.0

    @property
    def pipe(self) -> bool:
        """Whether the root is a command."""
        return self.root.startswith("pipe:")

    @property
    def local(self) -> bool:
        """Whether the root is a folder on this machine's file systems."""
        return is_local(self.root)

    def address(self, name: str) -> str:
        """The address of one file, with login and query."""
        return self._of(complete(self.root), name)

    def shown(self, name: str) -> str:
        """The address of one file for messages, without login and query."""
        return self._of(without_secrets(self.root), name)

    def _of(self, root: str, name: str) -> str:
        if self.pipe:  # replaced, not formatted: shell commands may contain other braces
            return root.replace("{name}", name)
        front, mark, query = root.partition("?") if is_web(root) else (root, "", "")
        return f"{front.rstrip('/')}/{name}{mark}{query}"

    def read(self, name: str, parse: Callable[[bytes], T], most: int = -1) -> T:
        """The result of `parse` on a file's bytes, which are fetched again if it rejects them.

        Args:
            name: of the file.
            parse: raises `UserError` if the bytes are not what they should be.
            most: maximum number of bytes to read from a server or a command; -1 reads all.

        Raises:
            UserError: the file cannot be fetched or stays invalid, or a command is not allowed.
            Unreachable: it is on a file system that does not answer.
        """
        if self.local:  # retrying does not fix what is on the disk
            return self.here(lambda: parse(read_shard_file(Path(self.root) / name)))
        if self.pipe and not self.allow_pipe:
            raise UserError(
                f"data.shards is {without_secrets(self.root)!r}, which would run a shell command; "
                "set data.allow_pipe=true to allow this"
            )

        def told(error: Exception) -> str:
            if isinstance(error, UserError):  # from `parse`
                return str(error)
            return f"cannot fetch {self.shown(name)}: {error}; check the address"

        passing = (Transient, UserError)
        try:
            return tried_again(lambda: parse(self._once(name, most)), self.retries, passing, told)
        except Final as error:
            raise UserError(f"cannot fetch {self.shown(name)}: {error}") from error
        except passing as error:
            raise UserError(f"{told(error)} (tried {self.retries + 1} times)") from error

    def here(self, work: Callable[[], T]) -> T:
        """The result of reading a local file, tried again while its file system does not answer.

        Raises:
            Unreachable: it never did.
        """
        try:
            return tried_again(work, self.retries, (Unreachable,), str)
        except Unreachable as error:
            raise Unreachable(f"{error} (tried {self.retries + 1} times)") from error

    def _once(self, name: str, most: int) -> bytes:
        address = self.address(name)
        if self.pipe:
            return _read_command(address.removeprefix("pipe:"), most, self.timeout)
        if is_web(address):
            return read_web(address, most, self.timeout)
        return _read_store(address)


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
                    raise Transient(f"no data for {timeout:g} s")
                chunk = os.read(stream.fileno(), _CHUNK)
                if not chunk:
                    break
                data += chunk
            else:
                return bytes(data[:most])
        status = process.wait(timeout)
    except subprocess.TimeoutExpired as error:
        raise Transient(f"still running {timeout:g} s after its last output") from error
    finally:
        with contextlib.suppress(ProcessLookupError):  # the shell and everything it started
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if status:
        raise Transient(f"exit status {status}")
    return bytes(data)


def fetch_manifest(origin: Origin) -> Manifest:
    """Load the manifest of the shards at an origin.

    Raises:
        UserError: the manifest cannot be read or is invalid.
    """
    if origin.local:
        return origin.here(lambda: load_manifest(Path(origin.root)))
    return origin.read(
        MANIFEST_NAME, lambda data: parse_manifest(data, origin.shown(MANIFEST_NAME))
    )


def needed_shards(data: DataConfig, manifest: Manifest) -> list[ShardInfo]:
    """The shards without which a run would stop."""
    return [
        shard
        for split, shards in manifest.shards.items()
        if split != "train" or data.bad_shards == "stop"
        for shard in shards
    ]


def check_sizes(origin: Origin, shards: list[ShardInfo]) -> None:
    """Compare the sizes of local shards with the manifest before hours are spent on a run.

    A shard's hash is checked when it is first read; remote shards are not checked here.

    Raises:
        UserError: a shard is missing or has a different size; the message names it.
    """
    problems = wrong_sizes(Path(origin.root), shards) if origin.local else []
    if problems:
        raise UserError(problems[0])
