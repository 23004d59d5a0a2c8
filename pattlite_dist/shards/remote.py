"""A shard set's place at an address: an object store, or whatever else fsspec can write to."""

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
    without_secrets,
)

T = TypeVar("T")
_SHARD = re.compile(rf"({'|'.join(SPLIT_NAMES)})-\d{{6,}}\.tar")
# Here an upload appears when it is complete; elsewhere a file grows under its name.
_WHOLE_PUTS = {"s3", "s3a", "gs", "gcs", "memory"}
_RETRIES = 3  # beyond those that s3fs and gcsfs make of their own accord


def shards_among(names: Iterable[str]) -> list[str]:
    """Those of the names that shards have, sorted."""
    return sorted(name for name in names if _SHARD.fullmatch(name))


@dataclass(frozen=True)
class Remote:
    """A folder, so called, at an address that fsspec knows."""

    address: str

    @property
    def shown(self) -> str:
        """The address without login."""
        return without_secrets(self.address).rstrip("/")

    def check(self) -> None:
        """See `Target.check`: only a write tells whether one may write."""
        probe = ".writable"

        def write(store: Any, root: str) -> None:
            if not self._whole_puts:  # an object store has no folders, and makes buckets for them
                store.makedirs(root, exist_ok=True)
            store.pipe_file(f"{root}/{probe}", b"pattlite")

        self._ask("write to", "", write)
        with contextlib.suppress(UserError):  # who may write need not be allowed to remove
            self.remove([probe])

    def work(self) -> Path:
        """In the user's cache folder, one for each address."""
        caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        name = hashlib.sha256(self.shown.encode()).hexdigest()[:16]
        return Path(caches) / "pattlite_dist" / "creating" / name

    def manifest(self) -> Manifest | None:
        """See `Target.manifest`."""

        def read(store: Any, root: str) -> bytes | None:
            try:
                return bytes(store.cat_file(f"{root}/{MANIFEST_NAME}"))
            except FileNotFoundError:
                return None

        data = self._ask("read", MANIFEST_NAME, read)
        return None if data is None else parse_manifest(data, f"{self.shown}/{MANIFEST_NAME}")

    def shard_names(self) -> list[str]:
        """See `Target.shard_names`."""

        def names(store: Any, root: str) -> list[str]:
            try:
                return [path.rpartition("/")[2] for path in store.ls(root, detail=False)]
            except FileNotFoundError:
                return []

        return shards_among(self._ask("list", "", names))

    def place(self, temporary: Path, shard: ShardInfo) -> None:
        """See `Target.place`; what the store says of the size is compared with the file's."""
        self._upload(temporary, shard.name)
        temporary.unlink(missing_ok=True)

    def holds(self, shard: ShardInfo) -> bool:
        """Whether it has that size; a store's own hashes depend on how a file was uploaded."""
        return shard.bytes == self._ask(
            "look up", shard.name, lambda store, root: _size(store, f"{root}/{shard.name}")
        )

    def save_manifest(self, manifest: Manifest) -> None:
        """See `Target.save_manifest`."""
        with tempfile.TemporaryDirectory() as folder:
            manifest.save(Path(folder))
            self._upload(Path(folder) / MANIFEST_NAME, MANIFEST_NAME)

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
            # Always the same name, so that what a killed run left is written over by the next one.
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
        """What `action` makes of the store and the path in it, tried again where that may help."""

        def attempt() -> T:
            with store_errors(self.address):
                store, root = open_store(self.address)
                store.invalidate_cache(root)  # what others have done since counts
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
