"""AffectNet (Mollahosseini, Hasani and Mahoor, 2017): its table's columns, and its .npy files."""

import io
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from math import prod

import numpy as np

from pattlite_dist.shards.sources.base import Reading, refusal, refusing
from pattlite_dist.shards.sources.files import Files
from pattlite_dist.shards.sources.listed import Entry, Listed, Lookup, split_in
from pattlite_dist.shards.sources.tables import plain

ABOUT = (
    "AffectNet with annotations for each image: train_set/images/0.jpg and "
    "train_set/annotations/0_exp.npy, val_set likewise; in a folder or .zip (for its training.csv, "
    "see label-table)"
)
COLUMNS = (
    "subDirectory_filePath", "face_x", "face_y", "face_width", "face_height", "facial_landmarks",
    "expression", "valence", "arousal",
)  # fmt: skip
BOX = ("face_x", "face_y", "face_width", "face_height")
NAMES = dict(
    enumerate(("neutral", "happy", "sad", "surprise", "fear", "disgust", "angry", "contempt"))
)
NO_EMOTION = {"8": "none", "9": "uncertain", "10": "no face", "11": "no face"}
_EXPRESSION = re.compile(r"(?:(.+)/)?annotations/([^/]+)_exp\.npy")
_FIX = "extract the annotations again"
_LARGEST = 4096  # bytes of an annotation; they have about 130


def is_header(names: Sequence[str]) -> bool:
    """Whether these are the columns of AffectNet's table."""
    return {plain(COLUMNS[0]), "expression"} <= {plain(name) for name in names}


def matches(names: Sequence[str]) -> bool:
    """Whether there is an expression for each image."""
    return any(_EXPRESSION.fullmatch(name) for name in names)


def parse_expression(data: bytes) -> str:
    """The number in a `_exp.npy` file, as text; nothing is unpickled.

    Raises:
        ValueError: it is not one number or short text in NumPy's format.
    """
    if len(data) > _LARGEST:
        raise ValueError(f"it has {len(data):,} bytes, too many for one number")
    stream = io.BytesIO(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about files of Python 2
            version = np.lib.format.read_magic(stream)
            if version == (1, 0):
                shape, _, kind = np.lib.format.read_array_header_1_0(stream)
            else:
                shape, _, kind = np.lib.format.read_array_header_2_0(stream)
    except Exception as error:  # damaged headers raise anything, from TokenError to TypeError
        raise ValueError("it is not NumPy's format, or is damaged") from error
    content = stream.read()
    if prod(shape) != 1 or kind.kind not in "USiuf" or not kind.itemsize:
        raise ValueError(f"it holds {kind} of shape {shape}, not one number")
    if len(content) != kind.itemsize:
        raise ValueError("it is truncated")
    try:
        value = np.frombuffer(content, kind)[0]
        text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)
    except SystemError as error:  # numbers that are no characters
        raise ValueError("its text is damaged") from error
    return text.strip().removesuffix(".0")


class AffectNet(Listed):
    """AffectNet's images, by split and number; its validation set is val, and test is cut.

    Images without one of the eight expressions (none, uncertain, no face) are left out.

    Raises:
        UserError: an annotation is damaged or its image is missing; names it.
    """

    def __init__(self, files: Files, reading: Reading) -> None:
        images, left_out = Lookup(files.names), Counter[str]()
        found = [m for name in files.names if (m := _EXPRESSION.fullmatch(name))]
        found.sort(key=lambda m: (m[1] or "", not m[2].isdigit(), len(m[2]), m[2]))
        entries: list[Entry] = []
        for match in found:
            where, top = files.where(match[0]), match[1] or ""
            with refusing(where, _FIX):
                label = parse_expression(files.read(match[0]))
            if label in NO_EMOTION:
                left_out[NO_EMOTION[label]] += 1
                continue
            if not label.isdigit() or int(label) not in NAMES:
                raise refusal(where, f"the expression {label[:20]!a} is not from 0 to 10", _FIX)
            folder = f"{top}/images/" if top else "images/"
            with refusing(where, "copy the images again"):
                name = images.find(f"{folder}{match[2]}", folder)
            entries.append(Entry(name, label, split_in(top.rpartition("/")[2]), where))
        super().__init__(
            "affectnet",
            files,
            reading,
            entries,
            name="AffectNet",
            known=NAMES,
            left_out=left_out,
        )
