"""A state of a run in a bucket: which files it has, each in pieces that never change."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

_VERSION = 1


class Piece(NamedTuple):
    """Consecutive bytes of a file, an object of their own.

    Attributes:
        key: of the object; never used for other bytes.
        size: bytes.
        sha256: in hexadecimal.
    """

    key: str
    size: int
    sha256: str


class State(NamedTuple):
    """All files of a run at one moment.

    Attributes:
        step: of the newest checkpoint; -1 without any.
        files: their pieces, by their paths in the run's folder.
    """

    step: int
    files: dict[str, tuple[Piece, ...]]

    @property
    def keys(self) -> set[str]:
        """The objects that it consists of."""
        return {piece.key for pieces in self.files.values() for piece in pieces}

    def encode(self) -> bytes:
        """As JSON."""
        files = {path: [list(piece) for piece in pieces] for path, pieces in self.files.items()}
        return json.dumps({"version": _VERSION, "step": self.step, "files": files}).encode()


class Damaged(Exception):
    """What is in the bucket is not what was published there."""


def parse_state(data: bytes) -> State:
    """What `State.encode` returned.

    Raises:
        Damaged: it is something else, or a path in it leads out of the run's folder.
    """
    try:
        content = json.loads(data)
        if content["version"] != _VERSION:
            raise Damaged(f"written by another version of this package ({content['version']})")
        files = {
            str(path): tuple(Piece(str(key), int(size), str(sha)) for key, size, sha in pieces)
            for path, pieces in content["files"].items()
        }
        state = State(int(content["step"]), files)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise Damaged(f"not the state of a run ({type(error).__name__})") from error
    for path in files:
        parts = PurePosixPath(path).parts
        if not parts or ".." in parts or path.startswith("/") or "\0" in path:
            raise Damaged(f"the path {path!r} leads out of the run's folder")
    return state


def pieces_to_keep(pieces: Sequence[Piece], data: bytes) -> int:
    """How many of a file's first pieces to keep, now that it contains `data`; the rest is one more.

    What was appended to a file becomes a further piece, together with such pieces before it as are
    not twice as large. So there are few pieces (logarithmically many), and few bytes are written
    more than once.

    Args:
        pieces: of the file before, in order.
        data: what it contains now.
    """
    kept = offset = 0
    for piece in pieces:
        part = data[offset : offset + piece.size]
        if len(part) < piece.size or hashlib.sha256(part).hexdigest() != piece.sha256:
            break
        offset += piece.size
        kept += 1
    rest = len(data) - offset
    while rest and kept and pieces[kept - 1].size < 2 * rest:
        kept -= 1
        rest += pieces[kept].size
    return kept
