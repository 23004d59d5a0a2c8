"""What class folders mean that are named by numbers."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pattlite_dist.shards.sources.base import EMOTIONS, Reading
from pattlite_dist.shards.sources.files import Files
from pattlite_dist.shards.sources.forms import Form, examine
from pattlite_dist.shards.sources.rafdb import RAFDB_LABELS

_NUMBER = re.compile(r"[0-9]+", re.ASCII)
_EXAMINED = 200  # images
NUMBERINGS = {  # by the name of the reader
    "fer2013-folder": {str(number): name for number, name in enumerate(EMOTIONS)},
    "raf-db": {str(number): name for number, name in enumerate(RAFDB_LABELS, start=1)},
}


class Numbering(NamedTuple):
    """The data set whose numbers these are, the class of each, and a line that says so."""

    kind: str
    meanings: Mapping[str, str]
    note: str


def are_numbers(folders: Sequence[str]) -> bool:
    """Whether all class folders, of which there is one at least, are named by numbers."""
    return bool(folders) and all(map(_NUMBER.fullmatch, folders))


def numbering_of(
    files: Files, by_folder: Mapping[str, Sequence[str]], reading: Reading
) -> Numbering | None:
    """The meaning of numbered class folders: what the user says, else what their images show.

    RAF-DB's are known by the names of its files (see `rafdb`). FER2013's are 0 to 6, with grey
    images of 48x48, the fewest of them in 1, disgust.

    Args:
        files: of the data set.
        by_folder: the images of each class folder.
        reading: its kind is a key of `NUMBERINGS` if the user says so.

    Returns:
        None if the folders are no numbers, or their meaning is unknown.

    Raises:
        ValueError: there are numbers that the user's numbering does not have.
    """
    if not are_numbers([*by_folder]):
        return None
    if reading.kind in NUMBERINGS:
        said, meanings = reading.kind, NUMBERINGS[reading.kind]
        strange = sorted(set(by_folder) - set(meanings))
        if strange:
            known = ", ".join(meanings)
            raise ValueError(f"the class folder {strange[0]!r} is not one of {said}'s {known}")
        return Numbering(said, meanings, _note(meanings, f"as --source {said} says"))
    meanings = NUMBERINGS["fer2013-folder"]
    if reading.kind != "auto" or set(by_folder) != set(meanings):
        return None
    counts = {folder: len(names) for folder, names in by_folder.items()}
    forms = examine(files, [name for names in by_folder.values() for name in names], _EXAMINED)
    # RAF-DB counted from 0 has the fewest in 1 too, and few in 2, where FER2013 has a mean class.
    total = sum(counts.values())
    few_in_one = counts["1"] == min(counts.values()) and 2 * counts["2"] * len(counts) >= total
    if not few_in_one or set(forms) != {Form(1, 48, 48)}:
        return None
    why = "as FER2013's, for their images are 48x48 and grey, with the fewest in 1"
    return Numbering("fer2013-folder", meanings, _note(meanings, why))


def _note(meanings: Mapping[str, str], why: str) -> str:
    told = ", ".join(f"{number} {name}" for number, name in meanings.items())
    return f"numbered folders read {why}: {told}"
