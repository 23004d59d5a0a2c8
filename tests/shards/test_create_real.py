"""Known facts about the real FER2013, and the four forms in which people store it."""

import hashlib
import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from pattlite_dist.shards.create import create_shards
from pattlite_dist.shards.manifest import SPLIT_NAMES, Options, load_manifest
from pattlite_dist.shards.png import encode_pngs
from pattlite_dist.shards.sources.base import Source
from pattlite_dist.shards.sources.fer2013 import FER2013_LABELS
from pattlite_dist.shards.sources.registry import open_source
from pattlite_dist.shards.verify import verify_shards
from tests.shards.test_writer import members
from tests.sources import read_rows

pytestmark = pytest.mark.real_data

BLANKS = [6458, 7629, 10423, 11286, 13148, 13402, 13988, 15894, 22198, 22927, 28601]
NEAR_BLANKS = {"train": [2171], "val": [29447], "test": []}
USAGES = {"train": "Training", "val": "PublicTest", "test": "PrivateTest"}


@pytest.fixture(scope="module")
def real_csv() -> Path:
    path = os.environ.get("FER2013_CSV")
    if not path:
        pytest.skip("set FER2013_CSV to a fer2013.csv to run this")
    return Path(path)


@pytest.fixture(scope="module")
def real_shards(real_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real") / "fer2013"
    create_shards(open_source(real_csv), folder, jobs=2)
    return folder


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


def test_the_marks_of_fer2013_are_in_its_samples(real_shards: Path) -> None:
    for split in SPLIT_NAMES:
        facts = [
            json.loads(data)
            for path in sorted(real_shards.glob(f"{split}-*.tar"))
            for name, data in members(path).items()
            if name.endswith(".json")
        ]
        found = load_manifest(real_shards).findings[split]
        assert [fact["row"] for fact in facts if fact["blank"]] == found.blank_rows
        assert [fact["row"] for fact in facts if fact["near_blank"]] == found.near_blank_rows
        assert sum(fact["leak"] for fact in facts) == found.leaks
        assert sum(fact["conflict"] for fact in facts) == found.conflicts


def test_the_shards_of_fer2013_pass_their_own_check(real_shards: Path) -> None:
    assert verify_shards(real_shards)[1] == []


def test_without_the_leaked_train_rows_nothing_leaks(real_csv: Path, tmp_path: Path) -> None:
    options = Options(leaks="drop-train")
    manifest = create_shards(open_source(real_csv), tmp_path / "out", jobs=2, options=options)
    assert manifest.samples("train") == 28_709 - 703
    assert [len(manifest.findings[split].dropped_rows) for split in SPLIT_NAMES] == [703, 0, 0]
    assert [manifest.findings[split].leaks for split in SPLIT_NAMES] == [0, 0, 0]


class Content(NamedTuple):
    """A source's samples in order."""

    images: str  # hash
    labels: list[int]
    splits: list[str | None]


def content(source: Source) -> Content:
    images = hashlib.sha256()
    labels, splits = [], []
    for row in read_rows(source):
        images.update(row.image.tobytes())
        labels.append(row.label)
        splits.append(row.split)
    return Content(images.hexdigest(), labels, splits)


@pytest.fixture(scope="module")
def copies(real_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real rows as icml_face_data.csv, as a folder of PNGs by row, and as a zip of that."""
    root = tmp_path_factory.mktemp("copies")
    source = open_source(real_csv)
    with (
        (root / "icml_face_data.csv").open("wb") as table,
        zipfile.ZipFile(root / "images.zip", "w", zipfile.ZIP_STORED) as archive,
    ):
        table.write(b"emotion, Usage, pixels\n")
        for row, (label, split, text, image) in enumerate(_rows(source)):
            table.write(b"%d,%s,%s\n" % (label, USAGES[split].encode(), text))
            folder = "train" if split == "train" else "test"
            name = f"{folder}/{FER2013_LABELS[label]}/{USAGES[split]}_{row}.png"
            (png,) = encode_pngs(image[None])
            path = root / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png)
            archive.writestr(name, png)
    return root


def _rows(source: Source) -> Iterator[tuple[int, str, bytes, np.ndarray]]:
    for item in source.items():
        assert item.split is not None
        yield item.label, item.split, item.data, source.decode(item)[0]


def test_four_ways_of_holding_fer2013_are_one_data_set(real_csv: Path, copies: Path) -> None:
    csv = content(open_source(real_csv))
    assert len(csv.labels) == 35_887
    for name, kind in (
        ("icml_face_data.csv", "fer2013-csv"),
        ("images", "fer2013-folder"),
        ("images.zip", "fer2013-folder"),
    ):
        source = open_source(copies / name)
        assert source.kind == kind
        assert content(source) == csv, name
