"""How much of a disk the entries of a cache take, over all processes, and which of them go first.

What is taken is a number in a file, changed under a lock. An entry counts before its first byte is
written, so that no number of processes exceeds the limit together. Where the number is wrong, as
after a kill, it is too high, and the next count of the folder corrects it.
"""

import contextlib
import errno
import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from filelock import Timeout

from pattlite_dist.data.trust import PRIVATE_FILE, PRIVATE_FOLDER, trusted
from pattlite_dist.errors import UserError
from pattlite_dist.files import atomic_write
from pattlite_dist.runtime.limits import share_of_memory
from pattlite_dist.runtime.locks import file_lock

_log = logging.getLogger(__name__)
_PAUSE = 0.05  # seconds until another process may have finished what it writes
_LEFT = 600.0  # seconds after which a file is left over, where no lock tells
_NO_LOCKS = "processes may decode the same shard; set data.cache to a disk of this node"


class Locks:
    """Locks of a folder by name, few and kept; the kernel releases them when a process dies.

    Attributes:
        real: false if the folder's file system turned out to have none.

    Args:
        folder: made when the first lock is taken, and then for this user alone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.real = folder, True

    @contextlib.contextmanager
    def hold(self, name: str, timeout: float = -1) -> Iterator[None]:
        """Hold a lock.

        Raises:
            Timeout: another process holds it for longer than `timeout` seconds; -1 waits for ever.
            UserError: the folder cannot be used.
        """
        place = self.folder / "locks"
        with contextlib.ExitStack() as stack:
            self.real = self._enter(stack, place, name, timeout)
            yield

    def _enter(self, stack: contextlib.ExitStack, place: Path, name: str, timeout: float) -> bool:
        try:
            self.folder.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
            place.mkdir(PRIVATE_FOLDER, exist_ok=True)
            if place.is_symlink() or not trusted(place.stat(), self.folder):
                raise PermissionError(errno.EPERM, "others may write there, and have")
            return stack.enter_context(file_lock(place / f"{name}.lock", _NO_LOCKS, timeout))
        except Timeout:
            raise
        except OSError as error:
            raise UserError(
                f"cannot use the cache folder {self.folder}: {error.strerror}; set data.cache"
            ) from error


class _Entry(NamedTuple):
    """A file of the folder; entries sort by their last use."""

    used: int
    name: str
    size: int


class Room:
    """The space of a folder's entries: files `*.block`, and those that are being written.

    Args:
        locks: of the folder.
        limit: bytes that the entries may take; None: nine tenths of the disk's free space, and
            at most half of the memory that this process may use if it is kept there.
    """

    def __init__(self, locks: Locks, limit: int | None) -> None:
        self.locks, self.folder, self.limit = locks, locks.folder, limit
        self._since = time.time()
        self._counted = self._swept = self._warned = False
        self._oldest: list[_Entry] = []  # the next to go is the last

    @contextlib.contextmanager
    def entry(self, path: Path, need: int) -> Iterator[BinaryIO]:
        """Open a new entry for writing, once there is room; its bucket's lock is held.

        Older entries are removed for it.

        Args:
            path: of the entry, `XX….block` for the bucket `XX`; a damaged one there is replaced.
            need: its bytes.

        Raises:
            UserError: there will never be room, or the disk is full.
        """
        if not self._swept:
            self._swept = True
            self.sweep(path.name[:2])
        with contextlib.ExitStack() as stack:
            while (stream := self._reserved(path, need, stack)) is None:
                # The rest is being written by others, or was when they were killed.
                self.sweep(path.name[:2])
                time.sleep(_PAUSE)
            yield stream

    def _reserved(self, path: Path, need: int, stack: contextlib.ExitStack) -> BinaryIO | None:
        with self.locks.hold("room"):
            taken = self._taken() - self._remove(path.name)
            limit = self.limit
            if limit is None:
                limit = (taken + shutil.disk_usage(self.folder).free) * 9 // 10
                limit = min(limit, share_of_memory(self.folder) or limit)
            if need > limit:
                raise UserError(
                    f"a decoded shard takes {need:,} bytes but the cache {self.folder} is limited "
                    f"to {limit:,}; raise data.cache_gb or set data.cache to a larger disk"
                )
            if taken + need > limit:
                taken = self._evict(taken, taken + need - limit)
            if taken + need > limit:
                self._note(taken)
                return None
            self._note(taken + need)
            stack.push(lambda kind, *_: self._give_back(need) if kind else None)
            stream = stack.enter_context(atomic_write(path, PRIVATE_FILE))
            stream.truncate(need)  # so that a count finds it
            return stream

    def _give_back(self, size: int) -> None:
        with self.locks.hold("room"):
            self._note(max(self._taken() - size, 0))

    def make(self, need: int) -> bool:
        """Remove entries for this many bytes, as the disk is full; returns whether there were any.

        Others fill the disk as well; while there is an older entry, it goes first.
        """
        with self.locks.hold("room"):
            taken = self._taken()
            left = self._evict(taken, need)
            self._note(left)
            return left < taken

    def sweep(self, held: str) -> None:
        """Remove what killed processes left half-written.

        Args:
            held: the bucket whose lock this process holds.
        """
        for path in self.folder.glob(".*.block.*.tmp"):
            bucket = path.name[1:3]
            free = bucket == held
            lock = contextlib.nullcontext() if free else self.locks.hold(bucket, 0)
            with contextlib.suppress(Timeout, FileNotFoundError), lock:
                # Held by another process, it is being written; without locks, its age decides.
                if self.locks.real or time.time() - path.stat().st_mtime > _LEFT:
                    path.unlink()
                    self._counted = False

    def _taken(self) -> int:
        """What is taken; counted once in each process, and when there is no number."""
        if self._counted:
            with contextlib.suppress(OSError, ValueError):
                return int((self.folder / "locks" / "taken").read_bytes())
        return self._count()

    def _note(self, taken: int) -> None:
        with contextlib.suppress(OSError):  # a full disk leaves it empty
            (self.folder / "locks" / "taken").write_bytes(b"%d" % taken)

    def _count(self) -> int:
        self._counted = True
        # In this order: others may finish an entry meanwhile, which then is in both lists, and
        # counts once.
        found = {**self._scan(".tmp"), **self._scan(".block")}
        entries = [entry for entry in found.values() if entry.name.endswith(".block")]
        self._oldest = sorted(entries, reverse=True)
        return sum(entry.size for entry in found.values())

    def _scan(self, ending: str) -> dict[str, _Entry]:
        """The files with this ending, by their keys."""
        found = {}
        with os.scandir(self.folder) as files:
            for file in files:
                if file.name.endswith(ending):
                    with contextlib.suppress(FileNotFoundError):
                        status = file.stat(follow_symlinks=False)
                        key = file.name.lstrip(".").partition(".")[0]
                        found[key] = _Entry(status.st_mtime_ns, file.name, status.st_size)
        return found

    def _evict(self, taken: int, wanted: int) -> int:
        """Remove the least recently opened entries; returns what is taken then.

        The order is that of the last count, in which what was opened since is passed over: all of
        that is younger. So a long run counts seldom.
        """
        goal = taken - wanted
        for counted in (False, True):
            if counted and taken > goal:
                taken = self._count()
            while self._oldest and taken > goal:
                entry = self._oldest.pop()
                try:
                    used = (self.folder / entry.name).lstat().st_mtime_ns
                except FileNotFoundError:
                    continue
                if used == entry.used:
                    taken -= self._remove(entry.name)
                    self._warn_of(used)
        return taken

    def _remove(self, name: str) -> int:
        path = self.folder / name
        try:
            size = path.lstat().st_size
            path.unlink()
        except FileNotFoundError:
            return 0
        return size

    def _warn_of(self, used: int) -> None:
        if used > self._since * 1e9 and not self._warned:
            self._warned = True
            _log.warning(
                "the cache %s holds less than this run reads in one window, so shards are "
                "decoded repeatedly; raise data.cache_gb or lower data.window",
                self.folder,
            )
