"""A run's newest complete state, from its bucket into a folder, every hash checked."""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

from pattlite_dist.buckets.head import HEAD, Head, parse_head
from pattlite_dist.buckets.shelf import Gone, Shelf
from pattlite_dist.buckets.state import Damaged, Piece, State, parse_state
from pattlite_dist.errors import UserError
from pattlite_dist.files import atomic_write, sha256_file
from pattlite_dist.train.names import listed, parse_name

CHECKPOINTS = "checkpoints"
_TRIES = 20  # states that are replaced while they are read
Wanted = Callable[[str], bool]


def everything(path: str) -> bool:
    """All files of a state."""
    return True


def light(path: str) -> bool:
    """All files of a state but the checkpoints."""
    return not path.startswith(f"{CHECKPOINTS}/")


def fetch(
    shelf: Shelf,
    folder: Path,
    wanted: Wanted = everything,
    least: int | None = None,
    told: Callable[[str], None] = print,
) -> State | None:
    """Bring the newest complete state into a folder; other files in it stay.

    Checkpoints come last, the newest one at the very end: a folder that has it has everything.

    Args:
        shelf: the run's.
        folder: what is there already, with the right content, is not read again.
        wanted: which files, by their paths in the run.
        least: leave the folder as it is unless the state's step is above this.
        told: what is damaged.

    Returns:
        The state, whether it was brought or left; None if nothing was ever published.

    Raises:
        UserError: no state in the bucket is complete.
    """
    wrong = ""
    for _ in range(_TRIES):
        held = shelf.get(HEAD)
        if held is None:
            return None
        head = _parsed(held.data)
        for key in head.states:
            try:
                state = _read_state(shelf, key)
                if least is None or state.step > least:
                    _bring(shelf, state, folder, wanted)
            except (Damaged, Gone) as error:
                wrong = f"{key}: {error}"
                if _moved(shelf, head):
                    break
                told(f"passed over: {wrong}")
            else:
                return state
        else:
            if not head.states:
                return None
            raise UserError(f"no state of the run in the bucket is complete ({wrong}); restore it")
    raise UserError("the run is published faster than it can be read; try again")


def newest_step(folder: Path) -> int:
    """The step of a run folder's newest checkpoint; -1 without any, -2 if it is no run folder."""
    if not (folder / "config.yaml").exists():
        return -2
    return max((item.step for item in listed(folder / CHECKPOINTS)), default=-1)


def _parsed(data: bytes) -> Head:
    try:
        return parse_head(data)
    except Damaged as error:
        raise UserError(f"{error}; give the address of a run") from error


def _moved(shelf: Shelf, head: Head) -> bool:
    held = shelf.get(HEAD)
    return held is None or _parsed(held.data).states != head.states


def _read_state(shelf: Shelf, key: str) -> State:
    held = shelf.get(key)
    if held is None:
        raise Gone(f"{key} is missing")
    if hashlib.sha256(held.data).hexdigest() != key.rpartition("-")[2]:
        raise Damaged(f"{key} has another hash")
    return parse_state(held.data)


def _bring(shelf: Shelf, state: State, folder: Path, wanted: Wanted) -> None:
    for path in _in_order(state.files):
        if wanted(path) and not _is_there(folder / path, state.files[path]):
            with atomic_write(folder / path) as stream:
                for piece in state.files[path]:
                    digest, size = hashlib.sha256(), 0
                    for chunk in shelf.chunks(piece.key):
                        digest.update(chunk)
                        size += len(chunk)
                        stream.write(chunk)
                    if (size, digest.hexdigest()) != (piece.size, piece.sha256):
                        raise Damaged(f"{path}: {piece.key} has another hash")


def _in_order(paths: Iterable[str]) -> list[str]:
    def place(path: str) -> tuple[bool, int, str]:
        item = parse_name(path.rpartition("/")[2])
        return not light(path), -1 if item is None else item.step, path

    return sorted(paths, key=place)


def _is_there(path: Path, pieces: tuple[Piece, ...]) -> bool:
    """Whether a file of one piece has this content."""
    if len(pieces) != 1 or not path.is_file() or path.stat().st_size != pieces[0].size:
        return False
    return sha256_file(path) == pieces[0].sha256
