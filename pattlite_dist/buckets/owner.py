"""The owner of a run in a bucket: takes it, publishes states, shows that it is alive, lets go."""

import contextlib
import hashlib
import io
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NamedTuple

from pattlite_dist.buckets.head import HEAD, Head, parse_head, taken
from pattlite_dist.buckets.shelf import Shelf
from pattlite_dist.buckets.state import Damaged, Piece, State, parse_state, pieces_to_keep
from pattlite_dist.stores import Final, Transient

_TRIES = 50  # others that take the run at the same moment


class Replaced(Exception):
    """Another process owns the run by now.

    Attributes:
        by: its pointer.
    """

    def __init__(self, by: Head) -> None:
        super().__init__(f"owner number {by.number} has taken the run")
        self.by = by


class Part(NamedTuple):
    """A file to publish.

    Attributes:
        stream: its bytes, at the beginning.
        sha256: of all of them, if the file never changes; None if it may have been appended to.
        size: bytes.
    """

    stream: BinaryIO
    sha256: str | None
    size: int


class Owner:
    """One process that publishes a run. All methods but `take` raise `Replaced`.

    After `Transient`, which all may raise, the same call may be made again.

    Attributes:
        head: the pointer as this owner last wrote it.
        trusts: whether the next state may use objects of the one before; not if these are damaged.

    Args:
        shelf: the run's.
        me: what names this process, with a `nonce` of its own.
    """

    def __init__(self, shelf: Shelf, me: dict[str, Any]) -> None:
        self.shelf, self.me = shelf, me
        self.head: Head | None = None
        self.trusts = True
        self._version: Any = None
        self._states: dict[str, State] = {}
        self._known: set[str] = set()  # objects that this owner may delete once nothing needs them
        self._sent: dict[str, Piece] = {}  # by hash: for when publishing is tried again
        self._serial = 0

    def take(self) -> tuple[Head | None, float]:
        """Take the run, whoever owns it.

        Returns:
            The pointer of the owner before, if any, and the seconds since its last sign of life.

        Raises:
            Damaged: the pointer is not one.
        """
        for _ in range(_TRIES):
            held = self.shelf.get(HEAD)
            before = parse_head(held.data) if held else None
            if self.head is not None and before is not None and before.is_of(self.head):
                break  # an earlier try went through
            self.head = taken(before, self.me)
            self._before = (before, held.modified if held else 0.0)
            if self.shelf.swap(HEAD, self.head.encode(), held.version if held else None):
                break
        else:
            raise Final("others take the run all the time; start it once")
        held = self.shelf.get(HEAD)
        if held is None:
            raise Final(f"{HEAD} vanished; check who else writes there")
        self._adopt(parse_head(held.data), held.version)
        before, since = self._before
        return before, max(held.modified - since, 0.0)

    def state(self) -> State | None:
        """The newest state.

        Raises:
            Damaged: it is not one, or its object is gone.
        """
        assert self.head is not None
        return self._state(self.head.states[0]) if self.head.states else None

    def publish(self, parts: Mapping[str, Part], step: int) -> bool:
        """Publish all files of a run as its newest state; returns whether that was done.

        It is not if nothing has changed, or if the newest state has a newer checkpoint, as when the
        folder is being deleted.

        Args:
            parts: by their paths in the run's folder.
            step: of the newest checkpoint.
        """
        assert self.head is not None
        before = self._states.get(self.head.states[0]) if self.head.states else None
        if before is not None and step < before.step:
            return False
        known = before.files if before and self.trusts else {}
        files = {
            path: self._pieces(part, known.get(path, ())) for path, part in sorted(parts.items())
        }
        state = State(step, files)
        if state == before:
            return False
        self.trusts = True
        data = state.encode()
        key = self._new_key("states", hashlib.sha256(data).hexdigest())
        self.shelf.put(key, io.BytesIO(data))
        self._states[key] = state
        self._move(lambda head: head.moved(key))
        self._clear()
        return True

    def check(self) -> None:
        """Ask whether another process has taken the run."""
        if (held := self.shelf.get(HEAD)) is not None:
            self._own(parse_head(held.data))

    def beat(self) -> None:
        """Show that this owner lives."""
        self._move(Head.beaten)

    def release(self) -> None:
        """Let the run go."""
        self._move(Head.ended)

    def clear_others(self) -> None:
        """Delete what earlier owners left unfinished: they can no longer point to it."""
        assert self.head is not None
        for key in [*self.shelf.keys("objects"), *self.shelf.keys("states")]:
            number = key.rpartition("/")[2].partition("-")[0]
            if number.isdecimal() and int(number) < self.head.number:
                self._known.add(key)
        self._clear()

    def _pieces(self, part: Part, before: tuple[Piece, ...]) -> tuple[Piece, ...]:
        if part.sha256 is not None:
            if [piece.sha256 for piece in before] == [part.sha256]:
                return before
            return (self._put(part.stream, part.size, part.sha256),)
        data = part.stream.read()
        kept = before[: pieces_to_keep(before, data)]
        rest = data[sum(piece.size for piece in kept) :]
        if not rest and kept:
            return kept
        return (*kept, self._put(io.BytesIO(rest), len(rest), hashlib.sha256(rest).hexdigest()))

    def _put(self, stream: BinaryIO, size: int, sha256: str) -> Piece:
        if sha256 not in self._sent:
            key = self._new_key("objects", sha256)
            stream.seek(0)
            self.shelf.put(key, stream)
            self._sent[sha256] = Piece(key, size, sha256)
        return self._sent[sha256]

    def _new_key(self, kind: str, sha256: str) -> str:
        # Never used again, not even for the same bytes: a deletion may arrive late.
        assert self.head is not None
        self._serial += 1
        key = f"{kind}/{self.head.number:06}-{self._serial:06}-{sha256}"
        self._known.add(key)
        return key

    def _move(self, change: Callable[[Head], Head]) -> None:
        """Change the pointer, unless another process has taken the run."""
        assert self.head is not None
        for _ in range(_TRIES):
            new = change(self.head)
            version = self.shelf.swap(HEAD, new.encode(), self._version)
            if version is not None:
                self.head, self._version = new, version
                return
            held = self.shelf.get(HEAD)
            if held is None:
                raise Final(f"{HEAD} vanished; check who else writes there")
            found = self._own(parse_head(held.data))
            self.head, self._version = found, held.version  # an earlier try went through
            if found == new:
                return
        raise Final("the bucket does not keep what is written to it")

    def _own(self, found: Head) -> Head:
        """A pointer that was found, unless it is another owner's."""
        assert self.head is not None
        if not found.is_of(self.head):
            raise Replaced(found)
        return found

    def _adopt(self, head: Head, version: Any) -> None:
        self.head, self._version = self._own(head), version
        for key in head.states:
            try:
                self._known |= {key, *self._state(key).keys}
            except Damaged:
                self._known.add(key)

    def _state(self, key: str) -> State:
        if key not in self._states:
            held = self.shelf.get(key)
            if held is None:
                raise Damaged(f"{key} is missing")
            self._states[key] = parse_state(held.data)
        return self._states[key]

    def _clear(self) -> None:
        """Delete what neither the newest state nor the one before needs."""
        assert self.head is not None
        needed = set(self.head.states)
        for key in self.head.states:
            if key not in self._states:
                return  # damaged: what it needs is unknown
            needed |= self._states[key].keys
        self._states = {key: self._states[key] for key in self.head.states}
        # From here on they may be gone at any time, so they are not used again.
        self._sent = {sha: piece for sha, piece in self._sent.items() if piece.key in needed}
        for key in sorted(self._known - needed):
            with contextlib.suppress(Transient):  # later, then
                self.shelf.delete([key])
                self._known.discard(key)
