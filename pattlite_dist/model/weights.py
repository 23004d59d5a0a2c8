"""The trained networks that come with the package, as exported files, found by their names.

`pattlite export RUN pattlite_dist/weights/NAME.safetensors --format safetensors-half` makes one of
them and its card; `default` beside them names the one that `pretrained` means.
"""

from pathlib import Path

from pattlite_dist.errors import UserError
from pattlite_dist.location import PRETRAINED

FOLDER = Path(__file__).parent.parent / "weights"
DEFAULT = "default"  # a file with one name
INSTEAD = "give a run folder, a checkpoint, or an exported file"


def names(folder: Path | None = None) -> list[str]:
    """Of the networks, the one that `pretrained` means first.

    Args:
        folder: of their files; default: the package's.
    """
    folder = folder or FOLDER
    found = sorted(path.stem for path in folder.glob("*.safetensors"))
    said = folder / DEFAULT
    first = said.read_text(encoding="utf-8").strip() if said.is_file() else ""
    return sorted(found, key=lambda name: name != first)


def find(text: str, folder: Path | None = None) -> Path:
    """The file that `pretrained` or `pretrained:NAME` means.

    Args:
        text: as the user wrote it.
        folder: of the files; default: the package's.

    Raises:
        UserError: there is none of this name.
    """
    folder = folder or FOLDER
    known = names(folder)
    if not known:
        raise UserError(f"{text}: this installation has no trained networks; {INSTEAD}")
    _, colon, name = text.partition(":")
    if colon and name not in known:
        named = ", ".join(f"{PRETRAINED}:{one}" for one in known)
        raise UserError(f"{text}: no such network is installed; choose from {named}, or {INSTEAD}")
    return folder / f"{name if colon else known[0]}.safetensors"
