"""Any tree of class folders: one for each class, optionally inside one for each split."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pattlite_dist.shards.manifest import SplitName
from pattlite_dist.shards.sources import ckplus, fer_folders, rafdb
from pattlite_dist.shards.sources.base import Reading, refusal, refusing
from pattlite_dist.shards.sources.content import is_text
from pattlite_dist.shards.sources.doubts import doubt
from pattlite_dist.shards.sources.files import Files
from pattlite_dist.shards.sources.imagefiles import ImageFiles, Picture
from pattlite_dist.shards.sources.numbering import Numbering, are_numbers, numbering_of
from pattlite_dist.shards.sources.passed import counted
from pattlite_dist.shards.sources.spellings import (
    EIGHT_EMOTIONS,
    class_name,
    is_image,
    shown,
    split_folder,
)

ABOUT = (
    "any images in folders by class: train/cat/1.png, val/cat/2.png, test/cat/3.png, or cat/1.png; "
    "missing validation and test splits are made by a stratified cut; FER2013 by number, "
    "train/0/1.png, if it is 48x48 and grey; in a folder or .zip"
)


class Place(NamedTuple):
    """Where an image is: the split folder, if the tree has any, and the class folder."""

    name: str
    split: SplitName | None
    folder: str


def matches(names: Sequence[str]) -> bool:
    """Whether an image is in a folder, and no more specific reader matches."""
    specific = (fer_folders.matches, rafdb.matches, ckplus.matches)
    in_folders = any("/" in name and is_image(name) for name in names)
    return in_folders and not any(claims(names) for claims in specific)


def place(name: str, has_splits: bool) -> Place | None:
    """The split and class folder of an image; None if there is no class folder.

    Args:
        name: relative, with `/`.
        has_splits: whether the top-level folders are splits.

    Raises:
        ValueError: the folders have another form; the message says how.
    """
    *folders, _ = name.split("/")
    split = split_folder(folders[0]) if has_splits and folders else None
    if has_splits and folders and split is None:
        raise ValueError(f"its folder {folders[0]!r} is next to splits but is not a split")
    classes = folders[1:] if has_splits else folders
    if not classes:
        return None
    if len(classes) > 1:
        raise ValueError(f"it is in a folder inside the class folder {classes[0]!r}")
    return Place(name, split, classes[0])


def class_names(
    places: Sequence[Place], meanings: Mapping[str, str] | None = None
) -> tuple[tuple[str, ...], dict[str, int]]:
    """The names of the classes, and the label of each class folder.

    Each emotion is named as in `EIGHT_EMOTIONS`, whatever the other classes are; other names have
    their case folded. They are sorted by name, or as in `EIGHT_EMOTIONS` if all are emotions.

    Args:
        places: of the images.
        meanings: the class of each folder, if its name does not tell.

    Raises:
        ValueError: there are fewer than two, or one has no images in train.
    """
    folders = sorted({where.folder for where in places})
    named = {folder: (meanings or {}).get(folder) or class_name(folder) for folder in folders}
    names = tuple(sorted(set(named.values())))
    if set(names) <= set(EIGHT_EMOTIONS):
        names = tuple(name for name in EIGHT_EMOTIONS if name in names)
    labels = {folder: names.index(name) for folder, name in named.items()}
    trained = {labels[where.folder] for where in places if where.split in (None, "train")}
    for folder, label in labels.items():
        if label not in trained:
            raise ValueError(f"the class {folder!r} has no images in train")
    if len(names) < 2:
        raise ValueError(f"there are images of {len(names)} class, but two are needed")
    return names, labels


class Tree(ImageFiles):
    """Images by class folder, in the order of their names.

    If the tree lacks val or test, they are cut from train. Files that are not images are skipped.

    Raises:
        UserError: the tree is not of this form, its folders are no classes (unless the user says
            that they are, with the kind `folder`), or a class has no images in train.
    """

    def __init__(self, files: Files, reading: Reading) -> None:
        images = files.images
        has_splits = _has_splits(images)
        places = [where for name in images if (where := _place(files, name, has_splits, reading))]
        names: tuple[str, ...] = ()
        labels: dict[str, int] = {}
        numbering: Numbering | None = None
        if places:
            _check_empty(files, places, has_splits)
            by_folder: dict[str, list[str]] = {}
            for name, _, folder in places:
                by_folder.setdefault(folder, []).append(name)
            fix = "give a folder with one folder for each class, in train/ if there are splits"
            with refusing(shown(str(files.path)), fix):
                numbering = numbering_of(files, by_folder, reading)
                if reading.kind == "auto" and numbering is None:
                    doubt(files, by_folder)
                names, labels = class_names(places, numbering and numbering.meanings)
        there = {where.split for where in places}
        wanted: tuple[SplitName, ...] = ("val", "test")
        cut = tuple(split for split in wanted if split not in there)
        labelled = {where.name for where in places}
        super().__init__(
            numbering.kind if numbering else "folder",
            files,
            reading,
            names,
            [
                Picture(name, labels[folder], None if cut and split == "train" else split)
                for name, split, folder in places
            ],
            cut=cut,
            skipped={
                "not an image": files.others,
                "no label": [name for name in images if name not in labelled],
            },
            notes=[numbering.note] if numbering else [],
        )


def _has_splits(images: Sequence[str]) -> bool:
    return any("/" in n and split_folder(n.split("/")[0]) is not None for n in images)


def numbered(images: Sequence[str]) -> bool:
    """Whether these are in class folders that are numbers, which a user may give a meaning."""
    has_splits = _has_splits(images)
    try:
        places = [place(name, has_splits) for name in images]
    except ValueError:
        return False
    return are_numbers([where.folder for where in places if where])


def _check_empty(files: Files, places: Sequence[Place], has_splits: bool) -> None:
    """Refuse a class folder without images, unless it has text only and may be something else."""
    classes = {*map(class_name, {where.folder for where in places})}
    depth = 2 if has_splits else 1
    content: dict[str, list[str]] = {folder: [] for folder in files.empty}
    for name in files.others:
        content.setdefault(name.rpartition("/")[0], []).append(name)
    for folder, names in sorted(content.items()):
        *above, last = folder.split("/")
        if not last or len(above) != depth - 1 or (above and split_folder(above[0]) is None):
            continue
        known = class_name(last) in EIGHT_EMOTIONS
        if class_name(last) not in classes and (known or not names or not all(map(is_text, names))):
            raise refusal(
                f"{shown(str(files.path))}: the class folder {shown(folder)}",
                f"it has no images{f', only {counted(names)}' if names else ''}",
                "put its images there, or remove the folder",
            )


def _place(files: Files, name: str, has_splits: bool, reading: Reading) -> Place | None:
    fix = "the tree must be class/image, or train, val and test with class/image in each"
    with refusing(files.where(name), fix):
        found = place(name, has_splits)
    if found is None and reading.unlabelled == "refuse":
        raise refusal(
            files.where(name),
            "it is not in a class folder",
            "move it into one, or skip such files with --unlabelled skip",
        )
    return found
