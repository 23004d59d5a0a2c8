"""A node's cache of decoded shards: made once, mapped by every process, bounded, atomic.

An entry `<key>.block` is a payload and a trailer (magic, version, length, CRC-32), written to a
temporary file and renamed. Its maker holds the lock of its bucket, which the kernel releases when
a process dies; the lock files are few and are kept. Entries may vanish at any time, when another
job needs the space: what is mapped stays readable, and the rest is made again.
"""

import contextlib
import errno
import logging
import mmap
import os
import shutil
import struct
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from filelock import Timeout
from numpy.typing import NDArray

from pattlite_dist.errors import UserError
from pattlite_dist.files import atomic_write
from pattlite_dist.runtime.locks import file_lock

Bytes = NDArray[np.uint8]
_log = logging.getLogger(__name__)
_TRAILER = struct.Struct("<8sQI4x")
_MAGIC = b"pattblk1"
_ATTEMPTS = 5
_PIECE = 64 << 10  # bytes
_REMEMBERED = 1 << 16  # entries that this process does not check again
_NOT_SHARED = "processes may decode the same shard; set data.cache to a disk of this node"


def default_cache() -> Path:
    """The cache in the job's temporary folder: the scheduler's if it has one, else the system's.

    Raises:
        UserError: it belongs to another user, who could put other pixels there.
    """
    base = os.environ.get("SLURM_TMPDIR") or tempfile.gettempdir()
    path = Path(base) / f"pattlite-cache-{os.getuid()}"
    if path.exists() and path.stat().st_uid != os.getuid():
        raise UserError(f"the cache folder {path} belongs to another user; set data.cache")
    return path


class Cache:
    """Entries of known sizes in one folder, shared by many processes and jobs.

    Args:
        folder: on a disk of this node.
        limit: bytes that all entries may take; None: nine tenths of the free disk space.
    """

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        self.folder, self.limit = folder, limit
        self._since = time.time()
        self._swept = self._warned = False
        self._checked: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_checked": set()}

    def open(self, key: str, size: int, make: Callable[[], Bytes]) -> mmap.mmap:
        """Map an entry, its payload first; make it if it is missing or damaged.

        Args:
            key: hexadecimal digits, different for different contents.
            size: of its payload, bytes.
            make: returns the payload; called by one process of the node while the others wait.

        Raises:
            UserError: the folder cannot be used, or the disk or the limit is too small.
        """
        path = self.folder / f"{key}.block"
        for _ in range(_ATTEMPTS):
            pages = self._map(path, size)
            if pages is None:
                with self._lock(key[:2]) as locked:
                    pages = self._map(path, size)  # made by another while this one waited
                    if pages is None:
                        self._write(path, make(), locked)
                        pages = self._map(path, size)
            if pages is not None:
                return pages
        raise UserError(
            f"entries of the cache {self.folder} are deleted as fast as they are made; "
            "raise data.cache_gb or set data.cache to a larger disk"
        )

    @contextlib.contextmanager
    def _lock(self, bucket: str, timeout: float = -1) -> Iterator[bool]:
        with contextlib.ExitStack() as stack:
            try:
                locks = self.folder / "locks"
                locks.mkdir(parents=True, exist_ok=True, mode=0o700)
                held = stack.enter_context(
                    file_lock(locks / f"{bucket}.lock", _NOT_SHARED, timeout=timeout)
                )
            except Timeout:
                raise
            except OSError as error:
                raise UserError(
                    f"cannot use the cache folder {self.folder}: {error.strerror}; set data.cache"
                ) from error
            yield held

    def _write(self, path: Path, payload: Bytes, locked: bool) -> None:
        """Write an entry, deleting older entries if necessary.

        Args:
            path: of the entry.
            payload: of the entry.
            locked: whether its bucket's lock is held; if not, what looks left over may be in use.
        """
        if locked:
            self._sweep(path.name[:2])
        flat = payload.reshape(-1)
        trailer = _TRAILER.pack(_MAGIC, len(flat), zlib.crc32(flat.data))
        need = len(flat) + _TRAILER.size
        self._make_room(need)
        while True:
            try:
                with atomic_write(path) as stream:
                    # In pieces: a single write becomes one large folio of the page cache, and
                    # recent kernels map all of it when one byte is touched.
                    for place in range(0, len(flat), _PIECE):
                        stream.write(flat[place : place + _PIECE].data)
                        stream.flush()
                    stream.write(trailer)
                return
            except UserError as error:
                # Others fill the disk as well; while there is an older entry, it goes first.
                full = getattr(error.__cause__, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
                if not full or not self._evict(need):
                    raise

    def _make_room(self, need: int) -> None:
        taken = sum(entry.st_size for _, entry in self._entries())
        limit = self.limit
        if limit is None:
            limit = (taken + shutil.disk_usage(self.folder).free) * 9 // 10
        if need > limit:
            raise UserError(
                f"a decoded shard takes {need:,} bytes but the cache {self.folder} is limited to "
                f"{limit:,}; raise data.cache_gb or set data.cache to a larger disk"
            )
        if taken + need > limit:
            self._evict(taken + need - limit)

    def _entries(self) -> list[tuple[Path, os.stat_result]]:
        found = []
        for path in self.folder.glob("*.block"):
            with contextlib.suppress(FileNotFoundError):  # another process may evict too
                found.append((path, path.stat()))
        return found

    def _evict(self, wanted: int) -> int:
        """Remove the least recently opened entries; returns the bytes freed."""
        freed = 0
        for path, entry in sorted(self._entries(), key=lambda item: item[1].st_mtime_ns):
            if freed >= wanted:
                break
            if entry.st_mtime > self._since and not self._warned:
                self._warned = True
                _log.warning(
                    "the cache %s holds less than this run reads in one window, so shards are "
                    "decoded repeatedly; raise data.cache_gb or lower data.window",
                    self.folder,
                )
            path.unlink(missing_ok=True)
            freed += entry.st_size
        return freed

    def _sweep(self, held: str) -> None:
        """Remove what killed processes left half-written; once per process."""
        if self._swept:
            return
        self._swept = True
        for path in self.folder.glob(".*.block.*.tmp"):
            bucket = path.name[1:3]
            lock = contextlib.nullcontext(True) if bucket == held else self._lock(bucket, 0)
            with contextlib.suppress(Timeout), lock:  # locked: another process is writing there
                path.unlink(missing_ok=True)

    def _map(self, path: Path, size: int) -> mmap.mmap | None:
        """An entry; None if it is missing, truncated or damaged."""
        try:
            with path.open("rb") as stream:
                if os.fstat(stream.fileno()).st_size != size + _TRAILER.size:
                    return None
                pages = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
                os.utime(stream.fileno())  # now the last to be evicted
        except OSError:  # missing, or the folder is unusable, which making the entry will report
            return None
        magic, length, checksum = _TRAILER.unpack_from(pages, size)
        if (magic, length) != (_MAGIC, size):
            return None
        if path.name not in self._checked:  # a disk can lose what it reported as written
            if zlib.crc32(memoryview(pages)[:size]) != checksum:
                return None
            if len(self._checked) == _REMEMBERED:
                self._checked.clear()
            self._checked.add(path.name)
        return pages
