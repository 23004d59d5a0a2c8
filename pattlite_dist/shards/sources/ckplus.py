"""CK+48: peak frames of the Extended Cohn-Kanade data set (Lucey et al., CVPR Workshops 2010)."""

import re
from collections.abc import Sequence

from pattlite_dist.shards.sources.base import Reading, refusing
from pattlite_dist.shards.sources.csvfile import CsvFile
from pattlite_dist.shards.sources.fer2013 import Fer2013Csv
from pattlite_dist.shards.sources.files import Files
from pattlite_dist.shards.sources.imagefiles import ImageFiles, Picture
from pattlite_dist.shards.sources.spellings import EIGHT_EMOTIONS, class_name, is_image

ABOUT = (
    "CK+48: anger/S010_004_00000017.png, cut into splits so that each person is in only one; in a "
    "folder or .zip"
)
CSV_ABOUT = (
    "CK+ as ckextended.csv (emotion 0 to 7 in FER2013's order with contempt as 7, pixels, Usage); "
    "plain, .xz, .gz or in a .zip"
)
CKPLUS_LABELS = ("angry", "contempt", "disgust", "fear", "happy", "sad", "surprise")
_FRAME = re.compile(r"(S[0-9]{3})_[0-9]{3}_[0-9]{8}\.\w+", re.ASCII | re.IGNORECASE)
_CSV = re.compile(r"ck(?:[-_+. 0-9]|plus|ext).*\.csv(?:\.xz|\.gz|\.zip)?", re.IGNORECASE)


def csv_names(names: Sequence[str]) -> list[str]:
    """The files among `names` that are CK+ as a CSV, by their names."""
    return [name for name in names if _CSV.fullmatch(name.split("/")[-1])]


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
    label = class_name(folders[0])
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
        pictures = []
        for name in files.images:
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
            skipped={"not an image": files.others},
        )


class CkPlusCsv(Fer2013Csv):
    """CK+ as `ckextended.csv`: FER2013's three columns, and contempt as label 7.

    Args:
        files: one CSV file.
        reading: the user's options.
    """

    name = "ckextended.csv"
    labels: tuple[str, ...] = EIGHT_EMOTIONS
    notes: Sequence[str] = (
        f"read as CK+ with the labels 0 to 7: {', '.join(EIGHT_EMOTIONS)}; it names no persons, so "
        "that its splits (or a cut) may have the same person on both sides",
    )
    _unsplit = "ck+csv"
    _whose = "CK+'s"
    _other = "read a CSV of FER2013 with --source fer2013-csv, or images by class folder"

    def __init__(self, files: Sequence[CsvFile], reading: Reading) -> None:
        super().__init__(files, reading)
        self.kind = "ck+csv"
