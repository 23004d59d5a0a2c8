"""CK+48: peak frames of the Extended Cohn-Kanade data set (Lucey et al., CVPR Workshops 2010)."""

import re
from collections.abc import Sequence

from pattlite_dist.shards.sources.base import EMOTIONS, Reading, refusing
from pattlite_dist.shards.sources.files import Files
from pattlite_dist.shards.sources.imagefiles import ImageFiles, Picture
from pattlite_dist.shards.sources.spellings import emotion, images_of, is_image

ABOUT = (
    "CK+48: anger/S010_004_00000017.png, cut into splits so that each person is in only one; in a "
    "folder or .zip"
)
CKPLUS_LABELS = ("angry", "contempt", "disgust", "fear", "happy", "sad", "surprise")
_FRAME = re.compile(r"(S[0-9]{3})_[0-9]{3}_[0-9]{8}\.\w+", re.ASCII | re.IGNORECASE)


def matches(names: Sequence[str]) -> bool:
    """Whether these are CK+48's images: one is in a class folder and has a name of that form."""
    return any(
        is_image(name) and len(parts := name.split("/")) == 2 and _FRAME.fullmatch(parts[1])
        for name in names
    )


def parse_name(name: str) -> tuple[int, str]:
    """The label in `CKPLUS_LABELS` and the subject, such as `S010`, from an image's relative name.

    Raises:
        ValueError: the name has another form; the message says how.
    """
    *folders, file = name.split("/")
    if len(folders) != 1:
        raise ValueError("it is not in a top-level class folder")
    number = emotion(folders[0])
    label = EMOTIONS[number] if number is not None else folders[0].strip().casefold()
    if label not in CKPLUS_LABELS:
        raise ValueError(
            f"its class folder {folders[0]!r} is not one of {', '.join(CKPLUS_LABELS)}"
        )
    frame = _FRAME.fullmatch(file)
    if frame is None:
        raise ValueError("its name is not SUBJECT_SESSION_FRAME, such as S010_004_00000017.png")
    return CKPLUS_LABELS.index(label), frame[1].upper()


class CkPlus(ImageFiles):
    """CK+48's images, in the order of their names; val and test are cut by subject.

    Contempt is a separate class, and there is no neutral class. The three frames of a sequence
    are nearly identical, so a cut that separated the frames of a person would test on known images.

    Raises:
        UserError: an image has a name of another form or is elsewhere; names it.
    """

    def __init__(self, files: Files, reading: Reading) -> None:
        names, others = images_of(files.names)
        pictures = []
        for name in names:
            fix = "remove it, or read the tree without subjects with --source folder"
            with refusing(files.where(name), fix):
                label, subject = parse_name(name)
            pictures.append(Picture(name, label, None, subject, {"subject": subject}))
        super().__init__(
            "ck+48",
            files,
            reading,
            CKPLUS_LABELS,
            pictures,
            cut=("val", "test"),
            left_out={"not an image": others},
        )
