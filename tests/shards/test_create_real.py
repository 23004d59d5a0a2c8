"""Known facts about the real FER2013 and FER+'s votes, and four forms of the former."""

import hashlib
import itertools
import json
import lzma
import re
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from pattlite_dist.cli import main
from pattlite_dist.model.weights import FOLDER, names
from pattlite_dist.shards.create import create_shards
from pattlite_dist.shards.manifest import SPLIT_NAMES, Options, load_manifest
from pattlite_dist.shards.sources.base import EMOTIONS, Item, Reading, Source
from pattlite_dist.shards.sources.csvfile import CsvFile
from pattlite_dist.shards.sources.fer2013 import FER2013_LABELS, Fer2013Csv
from pattlite_dist.shards.sources.ferplus import FERPLUS_LABELS, FerPlus, target_of
from pattlite_dist.shards.sources.registry import open_source
from pattlite_dist.shards.verify import verify_shards
from tests.sources import read_rows

pytestmark = pytest.mark.real_data

BLANKS = [6458, 7629, 10423, 11286, 13148, 13402, 13988, 15894, 22198, 22927, 28601]
NEAR_BLANKS = {"train": [2171], "val": [29447], "test": []}
USAGES = {"train": "Training", "val": "PublicTest", "test": "PrivateTest"}


class Unpacked(NamedTuple):
    """Shards of the real rows, and what was unpacked to make them."""

    shards: Path
    plain: Path


@pytest.fixture(scope="module")
def unpacked(real_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Unpacked:
    folder = tmp_path_factory.mktemp("real")
    shards, plain = folder / "fer2013", folder / "fer2013.csv"
    source = open_source(real_csv)
    with plain.open("wb") as copy, pytest.MonkeyPatch.context() as patch:

        class Copied(lzma.LZMAFile):
            """Keeps what is read, which takes longer to unpack than to read."""

            def read(self, size: int | None = -1) -> bytes:
                copy.seek(self.tell())
                data = super().read(size)
                copy.write(data)
                return data

        patch.setattr(lzma, "open", Copied)
        create_shards(source, shards, jobs=2)
    return Unpacked(shards, plain if real_csv.suffix == ".xz" else real_csv)


@pytest.fixture(scope="module")
def real_shards(unpacked: Unpacked) -> Path:
    return unpacked.shards


@pytest.fixture(scope="module")
def plain_csv(unpacked: Unpacked) -> Path:
    return unpacked.plain


def test_fer2013_has_the_known_classes(real_shards: Path) -> None:
    manifest = load_manifest(real_shards)
    assert manifest.source.rows == 35_887
    assert [manifest.samples(split) for split in SPLIT_NAMES] == [28_709, 3_589, 3_589]
    assert manifest.class_counts("train") == [3995, 436, 4097, 7215, 4830, 3171, 4965]
    assert manifest.class_counts("val") == [467, 56, 496, 895, 653, 415, 607]
    assert manifest.class_counts("test") == [491, 55, 528, 879, 594, 416, 626]


def test_fer2013_has_the_known_flaws(real_shards: Path) -> None:
    manifest = load_manifest(real_shards)
    findings = manifest.findings
    assert [findings[split].blank_rows for split in SPLIT_NAMES] == [BLANKS, [30002], []]
    assert {split: findings[split].near_blank_rows for split in SPLIT_NAMES} == NEAR_BLANKS
    assert [findings[split].leaks for split in SPLIT_NAMES] == [0, 280, 288]
    assert [findings[split].dropped_rows for split in SPLIT_NAMES] == [[], [], []]
    assert [findings[split].converted for split in SPLIT_NAMES] == [0, 0, 0]
    assert manifest.identical is not None
    assert manifest.identical.model_dump() == {
        "distinct": 34_034,
        "groups": 1_516,
        "copies": 1_853,
        "conflicting_groups": 57,
        "conflicting_samples": 160,
    }


def facts_in(shard: Path) -> list[dict[str, Any]]:
    with tarfile.open(shard) as tar:
        return [
            json.loads(tar.extractfile(member).read())  # type: ignore[union-attr]
            for member in tar
            if member.name.endswith(".json")
        ]


def test_the_marks_of_fer2013_are_in_its_samples(real_shards: Path) -> None:
    for split in SPLIT_NAMES:
        paths = sorted(real_shards.glob(f"{split}-*.tar"))
        facts = [fact for path in paths for fact in facts_in(path)]
        found = load_manifest(real_shards).findings[split]
        assert [fact["row"] for fact in facts if fact["blank"]] == found.blank_rows
        assert [fact["row"] for fact in facts if fact["near_blank"]] == found.near_blank_rows
        assert sum(fact["leak"] for fact in facts) == found.leaks
        assert sum(fact["conflict"] for fact in facts) == found.conflicts


def test_the_shards_of_fer2013_pass_their_own_check(real_shards: Path) -> None:
    assert verify_shards(real_shards)[1] == []


@pytest.mark.parametrize("name", names() or ["none"])
def test_the_networks_that_come_with_the_package_score_what_their_cards_say(
    name: str, real_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert name != "none", "no trained network is installed"
    monkeypatch.chdir(tmp_path)
    options = ["--shards", str(real_shards), "--accelerator=cpu", "--pictures=false"]
    assert main(["evaluate", f"pretrained:{name}", *options]) == 0
    splits = json.loads((tmp_path / f"{name}-evaluation" / "evaluation.json").read_text())["splits"]
    card = (FOLDER / f"{name}.safetensors.md").read_text()
    said = re.findall(
        r"^\| (val|test)( without copies of train)? \| [\d,]+ \| ([\d.]+) %", card, re.M
    )
    assert len(said) == 3
    for part, clean, percent in said:
        top1 = splits[part + ("_clean" if clean else "")]["top1"]
        assert abs(100 * top1 - float(percent)) <= 0.15  # 0.1, and the card is rounded


def test_without_the_leaked_train_rows_nothing_leaks(plain_csv: Path, tmp_path: Path) -> None:
    options = Options(leaks="drop-train")
    manifest = create_shards(open_source(plain_csv), tmp_path / "out", jobs=2, options=options)
    assert manifest.samples("train") == 28_709 - 703
    assert [len(manifest.findings[split].dropped_rows) for split in SPLIT_NAMES] == [703, 0, 0]
    assert [manifest.findings[split].leaks for split in SPLIT_NAMES] == [0, 0, 0]


class Content(NamedTuple):
    """A source's samples in order."""

    images: str  # hash, of pixels or of files
    labels: list[int]
    splits: list[str | None]


def content(rows: Iterable[tuple[bytes, int, str | None]]) -> Content:
    images = hashlib.sha256()
    labels, splits = [], []
    for image, label, split in rows:
        images.update(image)
        labels.append(label)
        splits.append(split)
    return Content(images.hexdigest(), labels, splits)


def decoded(source: Source) -> Content:
    return content((row.image.tobytes(), row.label, row.split) for row in read_rows(source))


def files(items: Iterable[Item]) -> Content:
    """As `decoded`, where equal files are as good as equal images."""
    return content((item.data, item.label, item.split) for item in items)


def fast_png(image: np.ndarray) -> bytes:
    """Not compressed: a tenth of the time that Pillow would take."""
    lines = np.pad(image[0], ((0, 0), (1, 0)))  # each begins with its filter: none
    height, width = image[0].shape
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0),
        b"IDAT": zlib.compress(lines.tobytes(), 0),
        b"IEND": b"",
    }
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts.items()
    )


class Copies(NamedTuple):
    """Where copies of the real rows lie, and what they are copies of."""

    root: Path
    original: Content


@pytest.fixture(scope="module")
def copies(plain_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Copies:
    """The real rows as icml_face_data.csv, as a folder of PNGs by row, and as a zip of that."""
    root = tmp_path_factory.mktemp("copies")
    source = open_source(plain_csv)
    for split, label in itertools.product(("train", "test"), FER2013_LABELS):
        (root / "images" / split / label).mkdir(parents=True)
    with (
        (root / "icml_face_data.csv").open("wb") as table,
        zipfile.ZipFile(root / "images.zip", "w", zipfile.ZIP_STORED) as archive,
    ):
        table.write(b"emotion, Usage, pixels\n")

        def rows() -> Iterator[tuple[bytes, int, str | None]]:
            for row, (label, split, text, image) in enumerate(_rows(source)):
                table.write(b"%d,%s,%s\n" % (label, USAGES[split].encode(), text))
                folder = "train" if split == "train" else "test"
                name = f"{folder}/{FER2013_LABELS[label]}/{USAGES[split]}_{row}.png"
                png = fast_png(image)
                (root / "images" / name).write_bytes(png)
                archive.writestr(name, png)
                yield image.tobytes(), label, split

        return Copies(root, content(rows()))


def _rows(source: Source) -> Iterator[tuple[int, str, bytes, np.ndarray]]:
    for item in source.items():
        assert item.split is not None
        yield item.label, item.split, item.data, source.decode(item)[0]


def test_four_ways_of_holding_fer2013_are_one_data_set(copies: Copies) -> None:
    root, original = copies
    assert len(original.labels) == 35_887
    table, folder, archive = (
        open_source(root / name) for name in ("icml_face_data.csv", "images", "images.zip")
    )
    assert [source.kind for source in (table, folder, archive)] == [
        "fer2013-csv", "fer2013-folder", "fer2013-folder",
    ]  # fmt: skip
    assert decoded(table) == original
    items = list(folder.items())
    rows = ((folder.decode(item)[0].tobytes(), item.label, item.split) for item in items)
    assert content(rows) == original
    # And an image is decoded from its file's bytes alone.
    assert files(archive.items()) == files(items)
    (one, other) = (next(iter(source.items())) for source in (folder, archive))
    np.testing.assert_array_equal(archive.decode(other)[0], folder.decode(one)[0])


@pytest.fixture(scope="module")
def voted(real_csv: Path, plain_csv: Path) -> list[Item]:
    """The real rows with FER+'s votes, without their pixels."""
    votes = real_csv.parent / "fer2013new.csv"
    if not votes.is_file():
        pytest.skip(f"put FER+'s fer2013new.csv beside {real_csv} to run this")
    source = FerPlus(Fer2013Csv([CsvFile(plain_csv)], Reading()), votes, "labels")
    return [item._replace(data=b"") for item in source.items()]


def test_ferplus_agrees_with_fer2013_in_62_percent_of_its_rows(voted: list[Item]) -> None:
    votes = [item.facts["votes"] for item in voted if item.facts]
    assert len(votes) == 35_887
    assert [row for row, counts in enumerate(votes) if sum(counts) != 10] == [10_435]
    assert sum(votes[10_435]) == 9
    most = [counts.index(max(counts)) for counts in votes]
    named = [EMOTIONS[item.label] for item in voted]
    same = [b == name for a, name in zip(most, named, strict=True)
            for b in [FERPLUS_LABELS[a] if a < 8 else None]]  # fmt: skip
    assert round(sum(same) / len(same), 2) == 0.62


def test_the_targets_of_ferplus_are_those_of_its_own_code(voted: list[Item]) -> None:
    """Counted with microsoft/FERPlus's src/ferplus.py on the same file."""
    counts = {}
    for mode in ("majority", "soft"):
        targets = [target_of(item.facts["votes"], mode) for item in voted if item.facts]
        counts[mode] = Counter(
            target if isinstance(target, str) else FERPLUS_LABELS[target.index(max(target))]
            for target in targets
        )
    assert counts["majority"] == {
        "neutral": 11_012, "happy": 9_045, "surprise": 3_960, "sad": 3_749, "angry": 2_660,
        "disgust": 161, "fear": 677, "contempt": 148, "no majority": 4_299, "not a face": 176,
    }  # fmt: skip
    assert counts["soft"] == {
        "neutral": 12_690, "happy": 9_325, "surprise": 4_409, "sad": 4_266, "angry": 3_041,
        "disgust": 222, "fear": 805, "contempt": 208, "no majority": 745, "not a face": 176,
    }  # fmt: skip
