"""A node's cache of decoded shards: made once, mapped by every process, bounded, atomic.

An entry `<key>.block` is a payload and a trailer (magic, version, length, CRC-32 of payload and
key), written to a temporary file and renamed. Its maker holds the lock of its bucket. Entries may
vanish at any time, when another job needs the space: what is mapped stays readable, and the rest is
made again. Only entries that nobody else can have written are used; see `trust`.
"""

import errno
import mmap
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from filelock import Timeout
from numpy.typing import NDArray

from pattlite_dist.data.room import Locks, Room
from pattlite_dist.data.trust import refuse_planted, trusted
from pattlite_dist.errors import UserError

Bytes = NDArray[np.uint8]
_TRAILER = struct.Struct("<8sQI4x")
_MAGIC = b"pattblk2"
_ATTEMPTS = 5
_PIECE = 64 << 10  # bytes
_REMEMBERED = 1 << 16  # entries that this process does not check again


class Cache:
    """Entries of known sizes in one folder, shared by many processes and jobs.

    Attributes:
        folder, limit: as given.

    Args:
        folder: on a disk of this node. It may be one that this user can only read.
        limit: bytes that all entries may take; None: nine tenths of the free disk space.

    Raises:
        UserError: another user has put the folder there.
    """

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        refuse_planted(folder)
        self.folder, self.limit = folder, limit
        self._locks = Locks(folder)
        self._room = Room(self._locks, limit)
        self._checked: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_checked": set()}

    def open(
        self, key: str, size: int, make: Callable[[], Bytes], wait: bool = True
    ) -> mmap.mmap | None:
        """Map an entry, its payload first; make it if it is missing or damaged.

        Args:
            key: hexadecimal digits, different for different contents.
            size: of its payload, bytes.
            make: returns the payload; called by one process of the node.
            wait: while another process makes it, or one of its bucket; otherwise None is returned.

        Raises:
            UserError: the folder cannot be used, or the disk or the limit is too small.
        """
        path = self._path(key)
        for _ in range(_ATTEMPTS):
            pages = self._map(path, size)
            if pages is not None:
                return pages
            try:
                with self._locks.hold(key[:2], -1 if wait else 0):
                    pages = self._map(path, size)  # made by another while this one waited
                    if pages is None:
                        self._write(path, make())
                        pages = self._map(path, size)
            except Timeout:
                return None
            if pages is not None:
                return pages
        raise UserError(
            f"entries of the cache {self.folder} are deleted or replaced as fast as they are made; "
            "raise data.cache_gb, or set data.cache to a larger disk that only you can write to"
        )

    def keep(self, key: str, size: int) -> bool:
        """Make an entry the last to be evicted; returns whether it is there, which is not checked.

        Args:
            key: see `open`.
            size: of its payload, bytes.
        """
        path = self._path(key)
        try:
            there = path.lstat().st_size == size + _TRAILER.size
            if there:
                os.utime(path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        except OSError:  # on a disk that is only read, nothing is evicted
            return True
        return there

    def fit(self, sizes: dict[str, int]) -> bool:
        """Whether there is room for entries of these sizes at the same time, by their keys."""
        if self.limit is not None:
            return sum(size + _TRAILER.size for size in sizes.values()) <= self.limit
        missing = [size for key, size in sizes.items() if not self._path(key).exists()]
        existing = next(folder for folder in (self.folder, *self.folder.parents) if folder.exists())
        return sum(missing) <= shutil.disk_usage(existing).free * 9 // 10

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.block"

    def _write(self, path: Path, payload: Bytes) -> None:
        """Write an entry whose bucket's lock is held."""
        flat = payload.reshape(-1)
        trailer = _TRAILER.pack(_MAGIC, len(flat), _checksum(flat.data, path))
        need = len(flat) + _TRAILER.size
        while True:
            try:
                with self._room.entry(path, need) as stream:
                    # In pieces: a single write becomes one large folio of the page cache, and
                    # recent kernels map all of it when one byte is touched.
                    for place in range(0, len(flat), _PIECE):
                        stream.write(flat[place : place + _PIECE].data)
                        stream.flush()
                    stream.write(trailer)
                return
            except UserError as error:
                full = getattr(error.__cause__, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
                if not full or not self._room.make(need):
                    raise

    def _map(self, path: Path, size: int) -> mmap.mmap | None:
        """An entry; None if it is missing, truncated or damaged, or others may have written it."""
        try:
            with path.open("rb") as stream:
                status = os.fstat(stream.fileno())
                if status.st_size != size + _TRAILER.size or not trusted(status, self.folder):
                    return None
                pages = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
                _touch(stream.fileno())
        except OSError:  # missing, or the folder is unusable, which making the entry will report
            return None
        magic, length, checksum = _TRAILER.unpack_from(pages, size)
        if (magic, length) != (_MAGIC, size):
            return None
        if path.name not in self._checked:  # a disk can lose what it reported as written
            if _checksum(memoryview(pages)[:size], path) != checksum:
                return None
            if len(self._checked) == _REMEMBERED:
                self._checked.clear()
            self._checked.add(path.name)
        return pages


def _checksum(payload: memoryview, path: Path) -> int:
    """CRC-32 of a payload and its key, so that an entry under another's name is found out."""
    return zlib.crc32(path.stem.encode(), zlib.crc32(payload))


def _touch(descriptor: int) -> None:
    """Make an entry the last to be evicted; on a disk that is only read, nothing is."""
    try:
        os.utime(descriptor)
    except OSError:
        return
