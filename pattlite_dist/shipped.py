"""The configurations and cluster profiles that come with the package, found by their names.

They are edited in `configs/` and `launch/profiles/` of the repository, where an editable
installation reads them. `setup.py` copies them into the package's folder of a wheel.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from pattlite_dist.errors import UserError

_PACKAGE = Path(__file__).parent
_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: in messages.
        verb: that lists and copies them; also their folder in an installed package.
        option: that takes one.
        source: their folder in the repository. One of this name below the current folder is looked
            at first, so that a clone uses its own.
    """

    name: str
    verb: str
    option: str
    source: Path


CONFIGS = Kind("configuration", "configs", "-c", Path("configs"))
PROFILES = Kind("profile", "profiles", "--profile", Path("launch", "profiles"))


def shipped(kind: Kind, package: Path = _PACKAGE) -> dict[str, Path]:
    """The files that come with the package, by their names.

    Args:
        kind: of file.
        package: its folder.
    """
    inside = package / kind.verb
    folder = inside if inside.is_dir() else package.parent / kind.source
    return _files(folder)


def _files(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.glob("*.yaml"), key=lambda path: path.stem)}


def find(kind: Kind, given: str) -> Path:
    """The file that a user means by its path or its name.

    Args:
        kind: of file.
        given: path of a file, or the name of one in the current folder's `source`, or of one that
            came with the package.

    Raises:
        UserError: there is no such file.
    """
    path = Path(given)
    with contextlib.suppress(OSError, ValueError):  # no name of a file: too long, or with a NUL
        if path.is_dir() and path.suffix in _SUFFIXES:
            raise UserError(f"{path} is a folder; give a YAML file")
        if path.exists() and not path.is_dir():
            return path
    known = {**shipped(kind), **_files(kind.source)}
    if given in known:
        return known[given]
    same = f"; did you mean {kind.option} {path.stem}?" if path.stem in known else ""
    raise UserError(
        f"{path} does not exist; give a {kind.name}'s YAML file, or the name of one that is "
        f"installed ({', '.join(sorted(known))}; see `pattlite {kind.verb}`){same}"
    )


def about(path: Path) -> str:
    """The first sentence of the comment with which a file begins; empty if there is none."""
    words: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        words += line.removeprefix("#").split()
        if words and words[-1].endswith("."):
            break
    sentence, stop, _ = " ".join(words).partition(". ")
    return sentence + stop.strip()


def copy(kind: Kind, name: str, out: Path | None) -> Path:
    """Copy a file that came with the package; returns where it is now.

    Args:
        kind: of file.
        name: of the file.
        out: file to write, or folder; None: the current folder.

    Raises:
        UserError: there is no such file, or one in its place, or it cannot be written.
    """
    from pattlite_dist.files import write_text

    known = shipped(kind)
    if name not in known:
        raise UserError(f"no {kind.name} {name!r} is installed; choose from {', '.join(known)}")
    path = out or Path()
    if path.is_dir():
        path = path / known[name].name
    if path.exists():
        raise UserError(f"{path} exists; remove it, or name another file after {name}")
    write_text(path, known[name].read_text(encoding="utf-8"))
    return path
