"""FER2013 as image files, in folders by class."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from pattlite_dist.shards.manifest import SPLIT_NAMES, ImageInfo, SplitName
from pattlite_dist.shards.sources.base import EMOTIONS, Reading, refusal, refusing
from pattlite_dist.shards.sources.files import Files
from pattlite_dist.shards.sources.imagefiles import ImageFiles, Picture
from pattlite_dist.shards.sources.spellings import (
    FER2013_USAGES,
    emotion,
    is_image,
    split_folder,
)

ABOUT = (
    "FER2013 as images: train/angry/Training_3908.jpg and test/angry/PrivateTest_1488292.jpg, or "
    "by number, Training/3/17.png; in a folder or .zip"
)
FER2013_IMAGE = ImageInfo(channels=1, height=48, width=48)
_PREFIXED = re.compile(
    r"(Training|PublicTest|PrivateTest)_([0-9]{1,18})\.\w+", re.ASCII | re.IGNORECASE
)
_LAST_NUMBER = re.compile(r"([0-9]{1,18})\.\w+$", re.ASCII)
_NUMBERED = re.compile(r"(?:Training|(?i:PublicTest|PrivateTest))/[0-9]+/[^/]+", re.ASCII)
_LABEL = re.compile(r"[0-6]", re.ASCII)
_WITHOUT = 10**18  # sorts names without a number after all others


class FerName(NamedTuple):
    """What a file's name says: its label in `EMOTIONS`, split, and number."""

    label: int
    split: SplitName
    number: int


_MOVE = "move or rename it, or read the tree by folders only with --source folder"
_LABEL_IT = "move it into one (train/angry), or skip such files with --unlabelled skip"


class NoLabel(ValueError):
    """The file is not in a class folder."""


def matches(names: Sequence[str]) -> bool:
    """Whether these are FER2013's images: one is named or numbered like them."""
    return any(
        is_image(name) and (_PREFIXED.fullmatch(name.split("/")[-1]) or _NUMBERED.fullmatch(name))
        for name in names
    )


def parse_name(name: str) -> FerName:
    """The label and split of an image, from its relative name.

    The split comes from the file name, because `PublicTest` and `PrivateTest` are often together
    in `test/`; from the folder only if the file name has none. The label comes from the name of
    the class folder: an emotion, or a number from 0 to 6.

    Raises:
        NoLabel: there is no class folder.
        ValueError: the name has another form, or contradicts its folder; the message says which.
    """
    *folders, file = name.split("/")
    if not folders or (len(folders) == 1 and split_folder(folders[0])):
        raise NoLabel("it is not in a class folder")
    if len(folders) > 2:
        raise ValueError("it is nested too deep; expected a split folder and a class folder")
    return FerName(_label(folders[-1]), *_split_and_number(folders[:-1], file))


def _label(folder: str) -> int:
    label = int(folder) if _LABEL.fullmatch(folder) else emotion(folder)
    if label is None:
        known = f"{', '.join(EMOTIONS)} or a number from 0 to {len(EMOTIONS) - 1}"
        raise ValueError(f"its class folder {folder!r} is not one of {known}")
    return label


def _split_and_number(folders: Sequence[str], file: str) -> tuple[SplitName, int]:
    prefixed = _PREFIXED.fullmatch(file)
    folder = folders[0] if folders else ""
    by_folder = split_folder(folder)
    if folders and by_folder is None:
        raise ValueError(f"the folder {folder!r} is not a split (train, val, test)")
    if prefixed is None:
        split = FER2013_USAGES.get(folder.casefold())
        number = _LAST_NUMBER.search(file)
        if split is None:
            raise ValueError("its name is not Training_, PublicTest_ or PrivateTest_ and a number")
        return split, int(number[1]) if number else _WITHOUT
    split = FER2013_USAGES[prefixed[1].casefold()]
    mixed = folder.casefold() in ("test", "testing") and split != "train"
    if by_folder not in (None, split) and not mixed:
        raise ValueError(f"its name says {prefixed[1]}, but its folder says {folder}")
    return split, int(prefixed[2])


class FerFolder(ImageFiles):
    """FER2013's images, by split, number and name: the CSV's order if the numbers are its rows.

    They are 48x48 and grey, unless the user chooses otherwise. A missing val or test is cut from
    train. The numbers of the widespread JPEG copies are not the rows of `fer2013.csv`.

    Raises:
        UserError: an image has no label or split where it is; names it.
    """

    def __init__(self, files: Files, reading: Reading) -> None:
        found: list[tuple[int, int, str, FerName]] = []
        unlabelled = []
        for name in files.images:
            where = files.where(name)
            with refusing(where, _MOVE):
                try:
                    parsed = parse_name(name)
                except NoLabel as error:
                    if reading.unlabelled == "refuse":
                        raise refusal(where, str(error), _LABEL_IT) from None
                    unlabelled.append(name)
                    continue
            found.append((SPLIT_NAMES.index(parsed.split), parsed.number, name, parsed))
        there = {what.split for _, _, _, what in found}
        cut = tuple(split for split in SPLIT_NAMES[1:] if split not in there)
        super().__init__(
            "fer2013-folder",
            files,
            reading,
            EMOTIONS,
            [
                Picture(name, what.label, None if cut and what.split == "train" else what.split)
                for _, _, name, what in sorted(found)
            ],
            own=FER2013_IMAGE,
            cut=cut,
            skipped={"not an image": files.others, "no label": unlabelled},
        )
