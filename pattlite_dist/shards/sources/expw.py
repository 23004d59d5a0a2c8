"""ExpW, Expression in-the-Wild (Zhang et al., 2015): faces in photographs, by a list of boxes."""

import re
from collections.abc import Sequence

from pattlite_dist.shards.sources.base import EMOTIONS, Reading, refusal, refusing
from pattlite_dist.shards.sources.files import Files
from pattlite_dist.shards.sources.listed import Box, Entry, Listed, Lookup
from pattlite_dist.shards.sources.spellings import shown

ABOUT = (
    "ExpW: label.lst (image, face, box, confidence, label) and the photographs, from which the "
    "faces are cut; requires --image-size; in a folder or .zip"
)
LABEL_LIST = "label.lst"
_LINE = re.compile(
    r"(?P<image>\S.*?)\s+(?P<face>\d{1,9})\s+(?P<top>-?\d{1,9})\s+(?P<left>-?\d{1,9})\s+"
    r"(?P<right>-?\d{1,9})\s+(?P<bottom>-?\d{1,9})\s+(?P<confidence>\d[\d.]{0,30})\s+(?P<label>\d)",
    re.ASCII,
)
_FIX = "extract the list and the images again"


def matches(names: Sequence[str]) -> bool:
    """Whether ExpW's list is there."""
    return any(name.rpartition("/")[2] == LABEL_LIST for name in names)


def parse_line(line: str) -> tuple[str, Box, int]:
    """The image, the box of the face, and its label in `EMOTIONS`, whose order ExpW has.

    Raises:
        ValueError: the line has another form.
    """
    found = _LINE.fullmatch(line)
    if found is None:
        raise ValueError(f"{shown(line[:60])!r} is not an image, a box and a label")
    label = int(found["label"])
    if label >= len(EMOTIONS):
        raise ValueError(f"the label {label} is not from 0 to {len(EMOTIONS) - 1}")
    left, top, right, bottom = (int(found[part]) for part in ("left", "top", "right", "bottom"))
    return found["image"], (left, top, right, bottom), label


class ExpW(Listed):
    """ExpW's faces in the order of its list; val and test are cut by photograph.

    Raises:
        UserError: a line is malformed or its photograph is missing; names the line.
    """

    def __init__(self, files: Files, reading: Reading) -> None:
        lists = [name for name in files.names if name.rpartition("/")[2] == LABEL_LIST]
        if len(lists) != 1:
            what = f"it has {len(lists)} files {LABEL_LIST}, but must have one"
            raise refusal(shown(str(files.path)), what, "give ExpW's folder")
        name = lists[0]
        images, entries = Lookup(files.names), []
        for record in files.table(name).records():
            line = b",".join(record.fields).decode("utf-8", "backslashreplace").strip()
            if not line:
                continue
            where = f"{files.where(name)}, line {record.line}"
            with refusing(where, _FIX):
                image, box, label = parse_line(line)
                found = images.find(image, name[: name.rfind("/") + 1])
            entries.append(Entry(found, EMOTIONS[label], None, where, box))
        super().__init__("expw", files, reading, entries, name="ExpW")
