"""All files of a run's folder at one moment, open, for its publisher."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from pattlite_dist.buckets.fetch import CHECKPOINTS
from pattlite_dist.buckets.owner import Part
from pattlite_dist.files import sha256_file
from pattlite_dist.train.names import listed

_TRIES = 100  # a checkpoint may be replaced by a newer one as it is opened
_STAYS = {"run.lock", "run.claim"}  # they are of this machine
_WANDB, _WANDB_FILES = "wandb", {"run-id.txt"}  # what is not yet uploaded stays as well


class Snapshots:
    """Takes snapshots of one folder; remembers the hashes of what never changes.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._hashes: dict[tuple[str, int, int], str] = {}

    @contextlib.contextmanager
    def take(self) -> Iterator[tuple[dict[str, Part], int]]:
        """The files, by their paths in the folder, and the newest checkpoint's step (-1: none).

        The checkpoints are opened first: each step that is in one of them is in the record too. An
        open file can be read to its end even if the run removes it in the meantime.
        """
        with contextlib.ExitStack() as stack:
            parts, step = self._checkpoints(stack)
            for path in sorted(self.folder.rglob("*")):
                name = path.relative_to(self.folder).as_posix()
                if not _travels(name) or not path.is_file() or path.is_symlink():
                    continue
                with contextlib.suppress(FileNotFoundError):
                    stream = stack.enter_context(path.open("rb"))
                    parts[name] = Part(stream, None, os.fstat(stream.fileno()).st_size)
            yield parts, step

    def _checkpoints(self, stack: contextlib.ExitStack) -> tuple[dict[str, Part], int]:
        for _ in range(_TRIES):
            with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as opened:
                found = listed(self.folder / CHECKPOINTS)
                parts = {}
                for item in found:
                    path = self.folder / CHECKPOINTS / item.name
                    stream = opened.enter_context(path.open("rb"))
                    facts = os.fstat(stream.fileno())
                    key = (item.name, facts.st_size, facts.st_mtime_ns)
                    if key not in self._hashes:
                        self._hashes[key] = sha256_file(Path(f"/dev/fd/{stream.fileno()}"))
                    name = f"{CHECKPOINTS}/{item.name}"
                    parts[name] = Part(stream, self._hashes[key], facts.st_size)
                stack.push(opened.pop_all())
                return parts, max((item.step for item in found), default=-1)
        raise OSError(f"the checkpoints in {self.folder} change faster than they can be opened")


def _travels(name: str) -> bool:
    """Whether a file belongs to the run and not only to this machine; checkpoints are apart."""
    parts = name.split("/")
    if any(part.startswith(".") for part in parts) or name in _STAYS or parts[0] == CHECKPOINTS:
        return False
    return parts[0] != _WANDB or "/".join(parts[1:]) in _WANDB_FILES
