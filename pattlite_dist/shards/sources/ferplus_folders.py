"""FER+ as its own program writes it: a folder of images for each split, with their votes."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from pattlite_dist.shards.manifest import SplitName
from pattlite_dist.shards.sources.base import Reading, refusal, refusing
from pattlite_dist.shards.sources.fer_folders import FER2013_IMAGE
from pattlite_dist.shards.sources.ferplus import FERPLUS_LABELS, FERPLUS_VOTES, target_of
from pattlite_dist.shards.sources.files import Files
from pattlite_dist.shards.sources.listed import Entry, Listed, Lookup
from pattlite_dist.shards.sources.spellings import EIGHT_EMOTIONS
from pattlite_dist.shards.sources.tables import rows_of

ABOUT = (
    "FER+'s own folders: FER2013Train/label.csv (image, box, ten votes) and its images, "
    "FER2013Valid and FER2013Test likewise; classes by majority, or --target soft; in a folder or "
    ".zip"
)
KIND = "ferplus-folder"
_SPLITS: dict[str, SplitName] = {
    "FER2013Train": "train",
    "FER2013Valid": "val",
    "FER2013Test": "test",
}
_TABLE = re.compile(rf"(?:.*/)?({'|'.join(_SPLITS)})/label\.csv")
_WHOLE = "(0, 0, 48, 48)"
_FIX = "give the label.csv of FER+'s repository"


def matches(names: Sequence[str]) -> bool:
    """Whether one of FER+'s folders is there."""
    return any(map(_TABLE.fullmatch, names))


class FerPlusFolder(Listed):
    """FER+'s images in the order of its tables, train first.

    The classes are those of FER+ in FER2013's order; see `ferplus.target_of` for `majority`, which
    is the default here, and `soft`.

    Raises:
        UserError: a row is malformed or its image is missing; names it.
    """

    votes: tuple[str, ...] = FERPLUS_VOTES

    def __init__(self, files: Files, reading: Reading) -> None:
        images, left_out = Lookup(files.names), Counter[str]()
        tables = [match for name in files.names if (match := _TABLE.fullmatch(name))]
        tables.sort(key=lambda match: list(_SPLITS).index(match[1]))
        entries = [
            entry for table in tables for entry in _entries(files, table, images, reading, left_out)
        ]
        super().__init__(
            KIND,
            files,
            reading,
            entries,
            name="FER+",
            labels=EIGHT_EMOTIONS,
            own=FER2013_IMAGE,
            left_out=left_out,
        )


def _entries(
    files: Files,
    table: "re.Match[str]",
    images: Lookup,
    reading: Reading,
    left_out: Counter[str],
) -> Iterator[Entry]:
    """Yield the images that have a target; counts the others in `left_out`."""
    folder = table[0].removesuffix("label.csv")
    for line, fields in rows_of(files, table[0]):
        where = f"{files.where(table[0])}, line {line}"
        image, box, *counts = fields if len(fields) == len(FERPLUS_VOTES) + 2 else ["", ""]
        if not counts or not all(re.fullmatch(r"[0-9]{1,3}", count, re.ASCII) for count in counts):
            what = f"it is not an image, a box and {len(FERPLUS_VOTES)} numbers of votes"
            raise refusal(where, what, _FIX)
        if box != _WHOLE:
            raise refusal(where, f"its box is {box[:40]!a}, not {_WHOLE}", _FIX)
        votes = [int(count) for count in counts]
        target = target_of(votes, "soft" if reading.target == "soft" else "majority")
        if isinstance(target, str):
            left_out[target] += 1
            continue
        with refusing(where, "write the images again with FER+'s generate_training_data.py"):
            name = images.find(image, folder)
        shares = dict(zip(FERPLUS_LABELS, target, strict=True))
        facts: dict[str, Any] = {"votes": votes}
        if reading.target == "soft":
            facts["target"] = [shares[emotion] for emotion in EIGHT_EMOTIONS]
        label = max(shares, key=lambda emotion: shares[emotion])
        yield Entry(name, label, _SPLITS[table[1]], where, facts=facts)
