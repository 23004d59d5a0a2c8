"""Signs that the folders of a tree are no classes, although they hold images."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import PurePosixPath

from pattlite_dist.shards.sources.base import refusal
from pattlite_dist.shards.sources.files import Files
from pattlite_dist.shards.sources.numbering import NUMBERINGS, are_numbers
from pattlite_dist.shards.sources.spellings import (
    EIGHT_EMOTIONS,
    class_name,
    folded,
    is_litter,
    shown,
    split_folder,
)

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_LETTERS = re.compile(r"[^\W\d_]+")
_class_name = lru_cache(class_name)  # of the words that all names of a data set have
_SPLIT_THINGS = re.compile(r"(?:set|data|images?|imgs?|pics?|pictures|faces?|samples?|files)$")
_PERSONS = re.compile(
    r"(?:s|p|id|subj?|subject|person|people|actor|user|participant|individual|model|name)"
    r"[-_ ]?\d+|(?!au)[a-z]{1,2}\d{2,6}"
)
_PIECES = re.compile(
    r"(?:part|chunk|shard|batch|fold|group|set|dir|folder|split|seq|clip|video)[-_ ]?\d+"
)
_TABLES = re.compile(r".*\.(?:csv|tsv|lst|txt|jsonl?)", re.IGNORECASE)
_TABLE_HEAD = 1 << 16  # bytes of a table that are looked at
_MANY, _FEW = 20, 3  # so many folders with fewer images each than this are no classes
_SAY = "if these folders are the classes, say so with --source folder"
_MOVE = f"move the images into a folder for each class (train/happy/1.png); {_SAY}"


def doubt(files: Files, by_folder: Mapping[str, Sequence[str]]) -> None:
    """Refuse folders that are splits, numbers, persons or pieces.

    Args:
        files: of the data set.
        by_folder: the images of each folder that would become a class.

    Raises:
        UserError: there are signs that they are no classes; says which.
    """
    folders = sorted(by_folder)
    told = shown(", ".join(folders[:4]) + (", ..." if len(folders) > 4 else ""))
    emotions = sum(class_name(folder) in EIGHT_EMOTIONS for folder in folders)
    what = f"its folders ({told}) are no classes"
    if why := _of_splits(folders):
        raise refusal(shown(str(files.path)), f"{what}, {why}", _MOVE)
    if emotions > 1:
        return
    why = (
        _described_one_by_one(files, by_folder)
        or _of_numbers(folders)
        or _of_persons(folders)
        or _in_their_names(by_folder)
        or _in_a_table(files, by_folder)
        or _too_many(by_folder)
    )
    if why:
        numbers = [
            f"say --source {kind} if {_beginning(meanings)}"
            for kind, meanings in NUMBERINGS.items()
            if set(folders) <= set(meanings)
        ]
        raise refusal(shown(str(files.path)), f"{what}, {why}", "; ".join([*numbers, _MOVE]))


def _beginning(meanings: Mapping[str, str]) -> str:
    pairs = [f"{number} is {name}" for number, name in meanings.items()]
    return f"{', '.join(pairs[:3])}, ..."


def _of_splits(folders: Sequence[str]) -> str:
    splits = [_split_in(folder) for folder in folders]
    if len(set(splits) - {""}) > 1 or all(splits):
        return "for their names say a split"
    return ""


def _split_in(folder: str) -> str:
    """The split that one of the words of a name says, or empty."""
    for word in _WORDS.findall(folder):
        split = split_folder(word) or split_folder(_SPLIT_THINGS.sub("", word.lower()))
        if split:
            return split
    return ""


def _described_one_by_one(files: Files, by_folder: Mapping[str, Sequence[str]]) -> str:
    """Whether beside most images is a file of the same name that describes it."""
    if not files.others:
        return ""
    images = {_stem(name) for names in by_folder.values() for name in names}
    beside = Counter(
        PurePosixPath(name).suffix.lower() for name in files.others if _stem(name) in images
    )
    for suffix, count in beside.most_common(1):
        if 2 * count > len(images):
            return f"for {count:,} of {len(images):,} images have a {suffix} beside them each"
    return ""


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _of_numbers(folders: Sequence[str]) -> str:
    return "but numbers, and nothing tells what they mean" if are_numbers(folders) else ""


def _of_persons(folders: Sequence[str]) -> str:
    names = [folded(folder) for folder in folders]
    if all(map(_PERSONS.fullmatch, names)):
        return "but persons, as it seems"
    return "but pieces of a data set, as it seems" if all(map(_PIECES.fullmatch, names)) else ""


def _in_their_names(by_folder: Mapping[str, Sequence[str]]) -> str:
    """Whether the names of the images in one folder say emotions, and different ones."""
    said = {
        folder: [found for name in names if (found := _emotion_in(name))]
        for folder, names in by_folder.items()
    }
    total = sum(map(len, by_folder.values()))
    if 2 * sum(map(len, said.values())) > total and any(len(set(s)) > 1 for s in said.values()):
        first = next(name for names in by_folder.values() for name in names if _emotion_in(name))
        return f"for the names of the images say their emotions ({shown(first)})"
    return ""


def _emotion_in(name: str) -> str:
    words = _LETTERS.findall(name.rpartition("/")[2].rpartition(".")[0])
    return next((said for word in words if (said := _class_name(word)) in EIGHT_EMOTIONS), "")


def _in_a_table(files: Files, by_folder: Mapping[str, Sequence[str]]) -> str:
    """Whether a table names images, and other labels for them than the folders."""
    folders = {folded(folder) for folder in by_folder}
    images = {PurePosixPath(name).name for names in by_folder.values() for name in names}
    for name in files.others:
        if not _TABLES.fullmatch(name) or is_litter(name):
            continue
        text = files.read(name, _TABLE_HEAD).decode("utf-8", "replace")
        fields = set(re.split(r"[\s,;:\"'\[\]{}()]+", text))
        if not images & {field.rpartition("/")[2] for field in fields}:
            continue
        labels = {folded(field) for field in fields}
        if not folders & labels or len({class_name(s) for s in labels} & {*EIGHT_EMOTIONS}) > 1:
            return f"for {shown(name)} gives the images other labels"
    return ""


def _too_many(by_folder: Mapping[str, Sequence[str]]) -> str:
    images = sum(map(len, by_folder.values()))
    if len(by_folder) >= _MANY and images < _FEW * len(by_folder):
        return f"for {len(by_folder):,} of them hold {images:,} images"
    return ""
