"""How people name emotions, splits and files; pure functions."""

import unicodedata
from collections.abc import Iterable
from posixpath import splitext  # five times as fast as pathlib, for every file

from pattlite_dist.shards.manifest import SplitName
from pattlite_dist.shards.sources.base import EMOTIONS

IMAGE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".gif", ".tif", ".tiff",
    ".pgm", ".ppm", ".pbm", ".pnm",
)  # fmt: skip
CONTEMPT = "contempt"
EIGHT_EMOTIONS = (*EMOTIONS, CONTEMPT)  # AffectNet's and CK+'s
FER2013_USAGES: dict[str, SplitName] = {
    "training": "train",
    "publictest": "val",
    "privatetest": "test",
}
_SPLITS: dict[str, SplitName] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
_EMOTIONS = {
    "angry": ("anger",),
    "disgust": ("disgusted",),
    "fear": ("fearful", "afraid", "scared"),
    "happy": ("happiness", "joy"),
    "sad": ("sadness",),
    "surprise": ("surprised", "suprise", "suprised"),
    "neutral": ("neutrality",),
}
_CONTEMPT = {CONTEMPT, "contemptuous"}
_LITTER = {"__macosx", "thumbs.db", "desktop.ini"}
_LABELS = {
    spelling: EMOTIONS.index(name)
    for name, others in _EMOTIONS.items()
    for spelling in (name, *others)
}


def emotion(name: str) -> int | None:
    """The index in `EMOTIONS` for a folder's name, in any case; None if it is not an emotion."""
    return _LABELS.get(folded(name))


def folded(name: str) -> str:
    """A name as it is compared with others: without case, spaces around it and encoding."""
    # Folding may decompose what was composed.
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).strip().casefold())


def class_name(folder: str) -> str:
    """The name of a class for a folder's: an emotion's, in any spelling, or the folded name."""
    number = emotion(folder)
    if number is not None:
        return EMOTIONS[number]
    return CONTEMPT if folded(folder) in _CONTEMPT else folded(folder)


def split_folder(name: str) -> SplitName | None:
    """The split for a folder's name, in any case; None if it is not a split.

    FER2013's own names count too: `PublicTest` is val, `PrivateTest` is test.
    """
    key = folded(name)
    return _SPLITS.get(key) or FER2013_USAGES.get(key)


def is_image(name: str) -> bool:
    """Whether a file is an image, by a known suffix."""
    return splitext(name)[1].lower() in IMAGE_SUFFIXES


def is_litter(name: str) -> bool:
    """Whether a file is hidden, or created by a file manager for its own use."""
    return any(part.startswith(".") or part.casefold() in _LITTER for part in name.split("/"))


def common_top(names: Iterable[str]) -> str:
    """The folders, with a final `/`, that contain everything and carry no information.

    The name of a split carries information, and so does the last folder above the files.
    """
    folders = [name.split("/")[:-1] for name in names]
    top = ""
    for depth, (folder, *others) in enumerate(zip(*folders, strict=False), start=1):
        says_nothing = split_folder(folder) is None and any(len(each) > depth for each in folders)
        if not says_nothing or {folder, *others} != {folder}:
            break
        top += f"{folder}/"
    return top


def plain_name(member: str) -> str:
    """The name of a zip member as it would be unpacked: relative, with `/` only.

    Raises:
        ValueError: it would end up outside the folder.
    """
    parts = [part for part in member.replace("\\", "/").split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ValueError("the name points outside the zip")
    return "/".join(parts)


def shown(text: str) -> str:
    """`text` escaped for a one-line message."""
    return text if text.isprintable() else ascii(text)[1:-1]
