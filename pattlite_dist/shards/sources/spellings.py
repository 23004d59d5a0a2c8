"""How people name emotions, splits and files; all of it pure."""

from collections.abc import Iterable
from pathlib import PurePosixPath

from pattlite_dist.shards.manifest import SplitName
from pattlite_dist.shards.sources.base import EMOTIONS

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")
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
_LITTER = {"__macosx", "thumbs.db", "desktop.ini"}
_LABELS = {
    spelling: EMOTIONS.index(name)
    for name, others in _EMOTIONS.items()
    for spelling in (name, *others)
}


def emotion(name: str) -> int | None:
    """The place in `EMOTIONS` of what a folder is called, in any case; None if it is none."""
    return _LABELS.get(name.strip().casefold())


def split_folder(name: str) -> SplitName | None:
    """The split for which a folder's name stands, in any case; None if it stands for none.

    FER2013's own names count as well: `PublicTest` is val, `PrivateTest` is test.
    """
    key = name.strip().casefold()
    return _SPLITS.get(key) or FER2013_USAGES.get(key)


def is_image(name: str) -> bool:
    """Whether a file is an image, by its suffix."""
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def images_of(names: Iterable[str]) -> tuple[list[str], int]:
    """Those of `names` that are images, in their order, and how many others there are."""
    every = list(names)
    images = [name for name in every if is_image(name)]
    return images, len(every) - len(images)


def is_litter(name: str) -> bool:
    """Whether a file is hidden, or made by a file manager for itself."""
    return any(part.startswith(".") or part.casefold() in _LITTER for part in name.split("/"))


def common_top(names: Iterable[str]) -> str:
    """The folders, with a `/` at the end, in which everything lies and that say nothing.

    The name of a split says something, and so does the last folder above the files.
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
    """The name of a zip's member as it would be unpacked: with `/` only, and relative.

    Raises:
        ValueError: it would land outside of the folder.
    """
    parts = [part for part in member.replace("\\", "/").split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ValueError("the name leads out of the zip")
    return "/".join(parts)


def shown(text: str) -> str:
    """`text` as it can stand in a message of one line."""
    return text if text.isprintable() else ascii(text)[1:-1]
