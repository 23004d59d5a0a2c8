"""A shard set at an address: an object store, or whatever else fsspec can write to."""

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pattlite_dist.errors import UserError
from pattlite_dist.logins import complete, without_secrets
from pattlite_dist.shards.manifest import (
    MANIFEST_NAME,
    SPLIT_NAMES,
    Manifest,
    ShardInfo,
    parse_manifest,
)
from pattlite_dist.stores import (
    Final,
    Transient,
    open_store,
    patiently,
    store_errors,
)

T = TypeVar("T")
_SHARD = re.compile(rf"({'|'.join(SPLIT_NAMES)})-\d{{6,}}\.tar")
# Here an upload appears only once complete; elsewhere a file grows under its final name.
_WHOLE_PUTS = {"s3", "s3a", "gs", "gcs", "memory"}
_RETRIES = 3  # in addition to the built-in retries of s3fs and gcsfs


def shards_among(names: Iterable[str]) -> list[str]:
    """The names that are shard names, sorted."""
    return sorted(name for name in names if _SHARD.fullmatch(name))


def strangers_among(names: Iterable[str]) -> list[str]:
    """The names of tar files that are not shard names, sorted."""
    return sorted(name for name in names if name.endswith(".tar") and not _SHARD.fullmatch(name))


@dataclass(frozen=True)
class Remote:
    """A "folder" at an address that fsspec supports."""

    address: str

    @property
    def shown(self) -> str:
        """The address without credentials."""
        return without_secrets(self.address).rstrip("/")

    def check(self) -> None:
        """See `Target.check`; only writing shows whether writing is allowed."""
        probe = ".writable"

        def write(store: Any, root: str) -> None:
            if not self._whole_puts:  # object stores have no folders, and would create buckets
                store.makedirs(root, exist_ok=True)
            store.pipe_file(f"{root}/{probe}", b"pattlite")

        self._ask("write to", "", write)
        with contextlib.suppress(UserError):  # permission to write may not include removal
            self.remove([probe])

    def work(self) -> Path:
        """A folder for each address in the user's cache folder."""
        caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        name = hashlib.sha256(self.shown.encode()).hexdigest()[:16]
        return Path(caches) / "pattlite_dist" / "creating" / name

    def manifest(self) -> Manifest | None:
        """See `Target.manifest`."""
        data = self.content(MANIFEST_NAME)
        return None if data is None else parse_manifest(data, f"{self.shown}/{MANIFEST_NAME}")

    def shard_names(self) -> list[str]:
        """See `Target.shard_names`."""
        return shards_among(self._names())

    def strange_tars(self) -> list[str]:
        """See `Target.strange_tars`."""
        return strangers_among(self._names())

    def _names(self) -> list[str]:
        def names(store: Any, root: str) -> list[str]:
            try:
                return [path.rpartition("/")[2] for path in store.ls(root, detail=False)]
            except FileNotFoundError:
                return []

        return list(self._ask("list", "", names))

    def place(self, temporary: Path, shard: ShardInfo) -> None:
        """See `Target.place`; the size that the store reports is compared with the file's."""
        self._upload(temporary, shard.name)
        temporary.unlink(missing_ok=True)

    def holds(self, shard: ShardInfo) -> bool:
        """Whether its size matches; a store's own hashes depend on how a file was uploaded."""
        return shard.bytes == self._ask(
            "look up", shard.name, lambda store, root: _size(store, f"{root}/{shard.name}")
        )

    def save_manifest(self, manifest: Manifest) -> None:
        """See `Target.save_manifest`."""
        with tempfile.TemporaryDirectory() as folder:
            manifest.save(Path(folder))
            self._upload(Path(folder) / MANIFEST_NAME, MANIFEST_NAME)

    def content(self, name: str) -> bytes | None:
        """See `Target.content`."""

        def read(store: Any, root: str) -> bytes | None:
            try:
                return bytes(store.cat_file(f"{root}/{name}"))
            except FileNotFoundError:
                return None

        return self._ask("read", name, read)

    def save(self, name: str, content: bytes) -> None:
        """See `Target.save`."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(content)
            self._upload(path, name)

    def remove(self, names: Iterable[str]) -> None:
        """See `Target.remove`."""

        def one(name: str) -> Callable[[Any, str], None]:
            def remove(store: Any, root: str) -> None:
                with contextlib.suppress(FileNotFoundError):
                    store.rm_file(f"{root}/{name}")

            return remove

        for name in names:
            self._ask("remove", name, one(name))

    @property
    def _whole_puts(self) -> bool:
        return self.address.partition("://")[0] in _WHOLE_PUTS

    def _upload(self, local: Path, name: str) -> None:
        def upload(store: Any, root: str) -> None:
            path = f"{root}/{name}"
            # Always the same name, so that the next run overwrites what a killed one left.
            first = path if self._whole_puts else f"{root}/.{name}.part"
            store.put_file(str(local), first)
            size = _size(store, first)
            if size != local.stat().st_size:
                with contextlib.suppress(Exception):
                    store.rm_file(first)
                raise Transient(f"{local.stat().st_size} bytes were sent, {size} arrived")
            if first != path:
                store.mv(first, path)

        self._ask("write", name, upload)

    def _ask(self, what: str, name: str, action: Callable[[Any, str], T]) -> T:
        """The result of `action` on the store and a path in it; retries transient failures."""

        def attempt() -> T:
            address = complete(self.address)
            with store_errors(address):
                store, root = open_store(address)
                store.invalidate_cache(root)  # to see what others have changed since
                return action(store, root)

        task = f"cannot {what} {self.shown}{'/' if name else ''}{name}"
        try:
            return patiently(attempt, task, _RETRIES)
        except Final as error:
            raise UserError(f"{task}: {error}") from error


def _size(store: Any, path: str) -> int | None:
    try:
        info = store.info(path)
    except FileNotFoundError:
        return None
    return int(info["size"]) if info["type"] == "file" else None
