"""What the words of `pattlite predict` mean: files, folders, globs, videos, a camera, `-`."""

import glob
import io
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO

from pattlite_dist.predict.video import SUFFIXES as VIDEOS

IMAGES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".mpo", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".pgm",
     ".ppm", ".pnm"}
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """One thing to predict.

    Attributes:
        kind: what it is; `pause` is nothing, but what follows may be long in coming.
        place: a path, or the number of a camera.
    """

    kind: Literal["picture", "video", "camera", "pause"]
    place: Path | int


Note = Callable[[str], None]


def find_sources(words: Sequence[str], note: Note, stdin: TextIO | None = None) -> Iterator[Source]:
    """Yield what the words name, in their order; within a folder, by name.

    A word is taken for a file if there is one of this name, whatever else it could mean.

    Args:
        words: of the command line.
        note: told of each word that names nothing that can be read.
        stdin: what `-` reads paths from, one a line.
    """
    for word in words:
        path = Path(word)
        if word == "-":
            yield Source("pause", path)
            for line in stdin or _standard_input():
                if line.strip():
                    yield _file(Path(line.rstrip("\r\n")))
                    yield Source("pause", path)
        elif os.path.isdir(word):  # noqa: PTH112  a Path raises for a name that is too long
            yield from _folder(path, note)
        elif os.path.exists(word):  # noqa: PTH110
            yield _file(path)
        elif word.isdecimal():
            yield Source("camera", int(word))
        elif glob.has_magic(word):
            found = sorted(glob.glob(word, recursive=True))  # noqa: PTH207  of any folder
            if not found:
                note(f"{word} matches no file; check the pattern")
            for name in found:
                if Path(name).is_dir():
                    yield from _folder(Path(name), note)
                else:
                    yield _file(Path(name))
        else:
            yield _file(path)  # does not exist, and opening it says so


def _standard_input() -> TextIO:
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # a path may be any bytes
    return sys.stdin


def _file(path: Path) -> Source:
    return Source("video" if path.suffix.lower() in VIDEOS else "picture", path)


def _folder(folder: Path, note: Note) -> Iterator[Source]:
    """Its pictures and videos, at any depth; what is hidden is not looked at."""
    passed: Counter[str] = Counter()
    some = False
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder).parts
        if any(part.startswith(".") for part in inside) or not path.is_file():
            continue
        if path.suffix.lower() not in IMAGES | VIDEOS:
            passed[path.suffix or "no suffix"] += 1
            continue
        some = True
        yield _file(path)
    if passed:
        kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in sorted(passed.items()))
        print(f"pattlite: {folder}: passed over what is no picture: {kinds}", file=sys.stderr)
    if not some:
        note(f"{folder} contains no picture; give another folder")
