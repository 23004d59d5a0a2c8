"""A tiny data set in the format of fer2013.csv, and its known contents."""

import csv
import gzip
import io
import lzma
import os
import shutil
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from pattlite_dist.shards.create import create_shards
from pattlite_dist.shards.manifest import Options
from pattlite_dist.shards.sources.registry import open_source

Pixels = NDArray[np.uint8]
HEADER = ("emotion", "pixels", "Usage")
NUL = "\ue000"  # what stands for it, for before Python 3.11 csv cannot write it

# 24 rows of Training, 8 of PublicTest and 8 of PrivateTest, in this order as in the real file.
TRAIN_BLANKS, VAL_BLANKS = [5, 11], [29]
LEAKS = {26: 3, 34: 3, 37: 10}  # row of val or test: the train row it duplicates
# Chosen so that no two splits and no two classes of train look alike.
TRAIN_COUNTS, VAL_COUNTS, TEST_COUNTS = [6, 0, 3, 5, 2, 1, 5], [1, 2, 1, 1, 1, 1, 1], [8] + 6 * [0]
TINY_PER_SHARD = 10
TINY_OPTIONS = Options(blanks="drop")
TINY_SHARDS = {
    "train-000000.tar": 10,
    "train-000001.tar": 10,
    "train-000002.tar": 2,
    "val-000000.tar": 8,
    "test-000000.tar": 8,
}


class CsvRow(NamedTuple):
    """The three fields as text, so that a test can put anything into them."""

    emotion: str
    pixels: str
    Usage: str


def pixel_text(image: Pixels) -> str:
    return " ".join(map(str, image.reshape(-1).tolist()))


def random_image(seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (1, 48, 48), dtype=np.uint8)


def face(label: int = 0, usage: str = "Training", seed: int = 0) -> CsvRow:
    """A valid row."""
    return CsvRow(str(label), pixel_text(random_image(seed)), usage)


def csv_text(rows: Iterable[Sequence[str]], header: Sequence[str] = HEADER) -> str:
    """The CSV of `rows`, with columns in the order of `header`, ignoring spaces around names."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        values = (value.replace("\0", NUL) for value in row)
        fields = dict(zip(HEADER, values, strict=True))
        writer.writerow([fields.get(name.strip(), "something else") for name in header])
    return stream.getvalue().replace(NUL, "\0")


def pack(path: Path, text: str) -> Path:
    """Write `text` to `path` in the format of its suffix."""
    data = text.encode()
    if path.suffix == ".xz":
        data = lzma.compress(data)
    elif path.suffix == ".gz":
        data = gzip.compress(data)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("fer2013/fer2013.csv", data)
    else:
        path.write_bytes(data)
    return path


def write_csv(path: Path, rows: Iterable[Sequence[str]], header: Sequence[str] = HEADER) -> Path:
    """Write `rows` to `path`, packed by its suffix; returns the path."""
    return pack(path, csv_text(rows, header))


def tiny_rows() -> list[CsvRow]:
    """The 40 rows of the tiny set."""
    usages = ["Training"] * 24 + ["PublicTest"] * 8 + ["PrivateTest"] * 8
    images = [random_image(1000 + index) for index in range(len(usages))]
    for value, index in enumerate([*TRAIN_BLANKS, *VAL_BLANKS]):
        images[index] = np.full((1, 48, 48), 60 * value, np.uint8)
    for index, original in LEAKS.items():
        images[index] = images[original]
    labels = _labels()
    return [
        CsvRow(str(label), pixel_text(image), usage)
        for label, image, usage in zip(labels, images, usages, strict=True)
    ]


def _labels() -> list[int]:
    def spread(counts: list[int]) -> list[int]:
        labels = [label for label, count in enumerate(counts) for _ in range(count)]
        return labels[::2] + labels[1::2]

    train = spread(TRAIN_COUNTS)
    for index in TRAIN_BLANKS:
        train.insert(index, 4)  # dropped, so not in TRAIN_COUNTS
    return [*train, *spread(VAL_COUNTS), *spread(TEST_COUNTS)]


def tiny_images() -> list[Pixels]:
    """The pixels of the 40 rows, read without the reader under test."""
    return [np.array(row.pixels.split(), dtype=np.uint8).reshape(1, 48, 48) for row in tiny_rows()]


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` with its bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="session")
def tiny_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny set as a plain CSV; must not be changed."""
    return write_csv(tmp_path_factory.mktemp("tiny") / "fer2013.csv", tiny_rows())


@pytest.fixture(scope="session")
def tiny_shards(tiny_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of the tiny set, three for train; must not be changed."""
    folder = tmp_path_factory.mktemp("tiny-shards") / "out"
    create_shards(
        open_source(tiny_csv), folder, samples_per_shard=TINY_PER_SHARD, options=TINY_OPTIONS
    )
    return folder


@pytest.fixture
def shard_copy(tiny_shards: Path, tmp_path: Path) -> Path:
    """A copy of the tiny shards that may be damaged."""
    return shutil.copytree(tiny_shards, tmp_path / "shards")


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set with one of everything that can be found in a set."""
    from tests.shards.flawed import flawed_set  # it needs the definitions above

    return flawed_set(tmp_path_factory.mktemp("flawed"))


@pytest.fixture
def shards(original: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return shutil.copytree(original, tmp_path / "set")


@pytest.fixture(scope="session")
def real_csv() -> Path:
    """The real FER2013, packed as its owner has it."""
    path = os.environ.get("FER2013_CSV")
    if not path:
        pytest.skip("set FER2013_CSV to a fer2013.csv to run this")
    return Path(path)
