"""RAF-DB, basic emotions (Li, Deng and Du, CVPR 2017): aligned faces and a list of labels."""

import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

from pattlite_dist.errors import UserError
from pattlite_dist.shards.manifest import SplitName
from pattlite_dist.shards.sources.base import EMOTIONS, Reading, Source, refusal
from pattlite_dist.shards.sources.files import Files
from pattlite_dist.shards.sources.imagefiles import ImageFiles, Picture
from pattlite_dist.shards.sources.spellings import shown

ABOUT = (
    "RAF-DB, basic emotions: EmoLabel/list_patition_label.txt and "
    "Image/aligned/train_00001_aligned.jpg, or as on Kaggle, DATASET/train/1/"
    "train_00001_aligned.jpg; in a folder or .zip"
)
LABEL_LIST = "EmoLabel/list_patition_label.txt"  # sic
LABEL_LISTS = (LABEL_LIST, "EmoLabel/list_partition_label.txt")
_ALIGNED = "Image/aligned/"
_ROOTS = ("", "basic/")
# RAF-DB counts from 1.
RAFDB_LABELS = ("surprise", "fear", "disgust", "happy", "sad", "angry", "neutral")
_LINE = re.compile(r"((train|test)_[0-9]{1,18})\.jpg[ \t]+(\S+)", re.ASCII)
_NUMBERED = re.compile(
    r"(?:.+/)?(train|test)/([1-7])/(train|test)_[0-9]{1,18}(?:_aligned)?\.\w+", re.ASCII
)
_TABLES = ("train_labels.csv", "test_labels.csv")
_FIX = "extract EmoLabel from the archive again"


class Entry(NamedTuple):
    """One line of the list: its number from 1, the image, its label in `EMOTIONS`, its split."""

    line: int
    image: str
    label: int
    split: SplitName


def matches(names: Sequence[str]) -> bool:
    """Whether these are RAF-DB's files: the list of labels, or the faces by number and name."""
    return _list_in(names) is not None or any(map(_NUMBERED.fullmatch, names))


def _list_in(names: Collection[str]) -> str | None:
    return next((r + name for r in _ROOTS for name in LABEL_LISTS if r + name in names), None)


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
        place = EMOTIONS.index(RAFDB_LABELS[int(label) - 1])
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
        labels = _list_in(names)
        if labels is None:
            raise UserError(
                f"{shown(str(files.path))} has no {LABEL_LIST}; give RAF-DB's folder basic"
            )
        root, where = labels.partition("EmoLabel/")[0], files.where(labels)
        entries = parse_list(files.read(labels), where)
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
        used = {picture.name for picture in pictures}
        faces = [name for name in files.images if name.startswith(root + _ALIGNED)]
        super().__init__(
            "raf-db",
            files,
            reading,
            EMOTIONS,
            pictures,
            cut=("val",) if has_test else ("val", "test"),
            skipped={"not in the list": [name for name in faces if name not in used]},
            lists=[labels],
        )


class RafDbFolders(ImageFiles):
    """RAF-DB as on Kaggle: its faces in folders by split and number, in the order of their names.

    If train_labels.csv and test_labels.csv are beside them, they must name the same labels.

    Raises:
        UserError: a face is elsewhere or of another name, or a table contradicts its folder.
    """

    def __init__(self, files: Files, reading: Reading) -> None:
        pictures = []
        for name in files.images:
            found = _NUMBERED.fullmatch(name)
            if found is None or found[1] != found[3]:
                raise refusal(
                    files.where(name),
                    "it is not where RAF-DB has its faces, such as train/1/train_00001_aligned.jpg",
                    "move or rename it, or read the tree by folders only with --source folder",
                )
            label = EMOTIONS.index(RAFDB_LABELS[int(found[2]) - 1])
            pictures.append(Picture(name, label, None if found[1] == "train" else "test"))
        tables = [name for name in files.others if name.split("/")[-1] in _TABLES]
        for name in tables:
            _check_table(files, name, pictures)
        if all(picture.split == "test" for picture in pictures):
            raise UserError(f"{shown(str(files.path))} has no train images; copy RAF-DB again")
        said = f", as {' and '.join(tables)} say too" if tables else ""
        super().__init__(
            "raf-db",
            files,
            reading,
            EMOTIONS,
            pictures,
            cut=("val",) if any(picture.split for picture in pictures) else ("val", "test"),
            skipped={"not an image": [name for name in files.others if name not in tables]},
            notes=[f"folders 1 to 7 read as RAF-DB's {', '.join(RAFDB_LABELS)}{said}"],
        )


def _check_table(files: Files, name: str, pictures: Sequence[Picture]) -> None:
    """Compare a table of images and labels with the folders."""
    folders = {picture.name.split("/")[-1]: picture.name.split("/")[-2] for picture in pictures}
    for record in files.table(name).records():
        if len(record.fields) < 2 or not record.fields[1].strip().isdigit():
            continue  # the header
        image, label = (field.strip().decode("utf-8", "replace") for field in record.fields[:2])
        if folders.get(image) == label:
            continue
        what = f"in the folder {folders[image]}" if image in folders else "not there"
        raise refusal(
            f"{files.where(name)}, line {record.line}",
            f"it gives {shown(image[:60])} the label {shown(label[:9])}, but that is {what}",
            "copy RAF-DB again, or remove the table to read the folders",
        )


def raf_db(files: Files, reading: Reading) -> Source:
    """The reader of the form in which RAF-DB is there."""
    by_list = _list_in(files.names) or not any(map(_NUMBERED.fullmatch, files.names))
    return (RafDb if by_list else RafDbFolders)(files, reading)
