"""RAF-DB, basic emotions (Li, Deng and Du, CVPR 2017): aligned faces and a list of labels."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from pattlite_dist.errors import UserError
from pattlite_dist.shards.manifest import SplitName
from pattlite_dist.shards.sources.base import EMOTIONS, Reading, refusal
from pattlite_dist.shards.sources.files import Files
from pattlite_dist.shards.sources.imagefiles import ImageFiles, Picture
from pattlite_dist.shards.sources.spellings import images_of, shown

ABOUT = (
    "RAF-DB, basic emotions: EmoLabel/list_patition_label.txt and "
    "Image/aligned/train_00001_aligned.jpg; in a folder or .zip"
)
LABEL_LIST = "EmoLabel/list_patition_label.txt"  # sic
_ALIGNED = "Image/aligned/"
_ROOTS = ("", "basic/")
# RAF-DB counts from 1.
_LABELS = ("surprise", "fear", "disgust", "happy", "sad", "angry", "neutral")
_LINE = re.compile(r"((train|test)_[0-9]{1,18})\.jpg[ \t]+(\S+)", re.ASCII)
_FIX = "extract EmoLabel from the archive again"


class Entry(NamedTuple):
    """One line of the list: its number from 1, the image, its label in `EMOTIONS`, its split."""

    line: int
    image: str
    label: int
    split: SplitName


def matches(names: Sequence[str]) -> bool:
    """Whether these are RAF-DB's files: the list of labels exists."""
    return any(root + LABEL_LIST in names for root in _ROOTS)


def parse_list(data: bytes, where: str) -> list[Entry]:
    """Read lines such as `train_00001.jpg 5`, in order.

    Args:
        data: the file's bytes.
        where: its name in messages.

    Raises:
        UserError: it is empty or not text, a line is malformed, a label is not from 1 to 7, or
            an image is named twice; names the line.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise refusal(where, f"it is not text ({error.reason})", _FIX) from error
    entries: list[Entry] = []
    lines: dict[str, int] = {}
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        if not line.strip():
            continue
        here = f"{where}, line {number}"
        found = _LINE.fullmatch(line.strip())
        if found is None:
            what = f"{shown(line.strip()[:40])!r} is not of the form train_00001.jpg 5"
            raise refusal(here, what, _FIX)
        image, split, label = found.groups()
        if label not in tuple("1234567"):
            raise refusal(here, f"label {shown(label[:20])!r} is not from 1 to 7", _FIX)
        if image in lines:
            raise refusal(here, f"line {lines[image]} also names {image}.jpg", _FIX)
        lines[image] = number
        place = EMOTIONS.index(_LABELS[int(label) - 1])
        entries.append(Entry(number, image, place, "train" if split == "train" else "test"))
    if not entries:
        raise refusal(where, "it is empty", _FIX)
    return entries


class RafDb(ImageFiles):
    """RAF-DB's aligned faces in the order of its list, with labels in FER2013's order.

    The test split is kept; val is cut from the train split. Aligned faces that the list does not
    name are left out.

    Raises:
        UserError: the list is missing or wrong, or a face in it is missing; names the line.
    """

    def __init__(self, files: Files, reading: Reading) -> None:
        names = set(files.names)
        root = next((root for root in _ROOTS if root + LABEL_LIST in names), None)
        if root is None:
            raise UserError(
                f"{shown(str(files.path))} has no {LABEL_LIST}; give RAF-DB's folder basic"
            )
        where = files.where(root + LABEL_LIST)
        entries = parse_list(files.read(root + LABEL_LIST), where)
        # It is distributed as an archive inside the folder.
        packed = f"{root}Image/aligned.zip" in names
        pictures = []
        for line, image, label, split in entries:
            name = f"{root}{_ALIGNED}{image}_aligned.jpg"
            if name not in names:
                raise refusal(
                    f"{where}, line {line}",
                    f"there is no {shown(name)}",
                    "unpack Image/aligned.zip" if packed else "copy the images again",
                )
            pictures.append(Picture(name, label, None if split == "train" else split))
        if all(entry.split == "test" for entry in entries):
            raise refusal(where, "it names no train images", _FIX)
        has_test = any(entry.split == "test" for entry in entries)
        faces, _ = images_of(name for name in names if name.startswith(root + _ALIGNED))
        super().__init__(
            "raf-db",
            files,
            reading,
            EMOTIONS,
            pictures,
            cut=("val",) if has_test else ("val", "test"),
            left_out={"not in the list": len(faces) - len(pictures)},
            lists=[root + LABEL_LIST],
        )
