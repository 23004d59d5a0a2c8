"""Any tree of class folders: one for each class, optionally inside one for each split."""

from collections.abc import Sequence
from typing import NamedTuple

from pattlite_dist.errors import UserError
from pattlite_dist.shards.manifest import SplitName
from pattlite_dist.shards.sources import ckplus, fer_folders, rafdb
from pattlite_dist.shards.sources.base import EMOTIONS, Reading, refusal, refusing
from pattlite_dist.shards.sources.files import Files
from pattlite_dist.shards.sources.imagefiles import ImageFiles, Picture
from pattlite_dist.shards.sources.spellings import emotion, images_of, is_image, shown, split_folder

ABOUT = (
    "any images in folders by class: train/cat/1.png, val/cat/2.png, test/cat/3.png, or cat/1.png; "
    "missing validation and test splits are made by a stratified cut; in a folder or .zip"
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


def class_names(places: Sequence[Place]) -> tuple[tuple[str, ...], dict[str, int]]:
    """The names of the classes, and the label of each class folder.

    They are sorted by name; if all of them are emotions, they are named and sorted as in
    `EMOTIONS`.

    Raises:
        ValueError: there are fewer than two, or one has no images in train.
    """
    folders = sorted({where.folder for where in places})
    numbers = {folder: number for folder in folders if (number := emotion(folder)) is not None}
    if len(numbers) == len(folders):
        names = tuple(EMOTIONS[number] for number in sorted(set(numbers.values())))
        labels = {folder: names.index(EMOTIONS[number]) for folder, number in numbers.items()}
    else:
        names = tuple(folders)
        labels = {folder: label for label, folder in enumerate(folders)}
    trained = {labels[where.folder] for where in places if where.split in (None, "train")}
    for folder, label in labels.items():
        if label not in trained:
            raise ValueError(f"the class {folder!r} has no images in train")
    if len(names) < 2:
        raise ValueError(f"there are images of {len(names)} class, but two are needed")
    return names, labels


class Tree(ImageFiles):
    """Images by class folder, in the order of their names.

    If the tree lacks val or test, they are cut from train. Files without an image suffix are
    skipped.

    Raises:
        UserError: the tree is not of this form, or a class has no images in train.
    """

    def __init__(self, files: Files, reading: Reading) -> None:
        images, others = images_of(files.names)
        has_splits = any("/" in n and split_folder(n.split("/")[0]) is not None for n in images)
        places = [where for name in images if (where := _place(files, name, has_splits, reading))]
        names: tuple[str, ...] = ()
        labels: dict[str, int] = {}
        if places:
            try:
                names, labels = class_names(places)
            except ValueError as error:
                raise UserError(
                    f"{shown(str(files.path))}: {error}; give a folder with one folder for each "
                    "class, in train/ if there are splits"
                ) from None
        there = {where.split for where in places}
        wanted: tuple[SplitName, ...] = ("val", "test")
        cut = tuple(split for split in wanted if split not in there)
        super().__init__(
            "folder",
            files,
            reading,
            names,
            [
                Picture(name, labels[folder], None if cut and split == "train" else split)
                for name, split, folder in places
            ],
            cut=cut,
            left_out={"not an image": others, "no label": len(images) - len(places)},
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
