import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pattlite_dist.shards.manifest import load_manifest
from pattlite_dist.shards.sources.fer2013 import FER2013_LABELS
from pattlite_dist.shards.writer import Sample, tar_member, write_shard
from tests.shards.conftest import (
    LEAKS,
    TINY_SHARDS,
    TRAIN_BLANKS,
    VAL_BLANKS,
    tiny_images,
    tiny_rows,
)

PLACES = {"train": range(24), "val": range(24, 32), "test": range(32, 40)}
# Row 3 appears three times, row 10 twice, and no two blanks look alike.
COPIES = {3: 3, 26: 3, 34: 3, 10: 2, 37: 2}


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def kept(split: str) -> list[int]:
    return [row for row in PLACES[split] if row not in TRAIN_BLANKS]


@given(
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=100).filter(
        lambda name: not name.endswith("/")
    ),
    st.binary(max_size=2000),
)
def test_a_member_is_byte_for_byte_that_of_tarfile(name: str, data: bytes) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
        length = tar.offset
    assert tar_member(name, data) == stream.getvalue()[:length]


@pytest.mark.parametrize("samples", [1, 2, 7])
def test_a_shard_is_byte_for_byte_that_of_tarfile(tmp_path: Path, samples: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (samples, 1, 48, 48), dtype=np.uint8)
    told = [Sample(index % 2, {"row": index, "é": "ü"}) for index in range(samples)]
    shard = write_shard(tmp_path / "x.tar", "train-000000.tar", images, told, 3)
    with tarfile.open(tmp_path / "again.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members(tmp_path / "x.tar").items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    data = (tmp_path / "x.tar").read_bytes()
    assert data == (tmp_path / "again.tar").read_bytes()
    assert shard.model_dump() == {
        "name": "train-000000.tar",
        "samples": samples,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "class_counts": [(samples + 1) // 2, samples // 2, 0],
    }


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_sample_is_three_members_with_the_facts_of_its_row(tiny_shards: Path, split: str) -> None:
    images, rows = tiny_images(), tiny_rows()
    found: dict[str, bytes] = {}
    for path in sorted(tiny_shards.glob(f"{split}-*.tar")):
        found |= members(path)
    keys = [f"{row:08d}" for row in kept(split)]
    assert list(found) == [f"{key}.{kind}" for key in keys for kind in ("png", "cls", "json")]
    for key in keys:
        row = int(key)
        assert found[f"{key}.cls"] == rows[row].emotion.encode()
        labels = {rows[other].emotion for other in _same(row)}
        expected = {
            "row": row,
            "split": split,
            "label": FER2013_LABELS[int(rows[row].emotion)],
            "blank": row in VAL_BLANKS,
            "near_blank": False,
            "leak": row in LEAKS,
            "copies": COPIES.get(row, 1),
            "conflict": len(labels) > 1,
        }
        told = found[f"{key}.json"].decode()
        assert told == json.dumps(expected, sort_keys=True)  # true and false, not 1 and 0
        with Image.open(io.BytesIO(found[f"{key}.png"])) as picture:
            assert (picture.format, picture.mode, picture.size) == ("PNG", "L", (48, 48))
            np.testing.assert_array_equal(np.asarray(picture), images[row][0], strict=True)


def _same(row: int) -> list[int]:
    images = tiny_images()
    return [other for other in range(40) if (images[other] == images[row]).all()]


def test_members_carry_nothing_of_who_wrote_them_and_when(tiny_shards: Path) -> None:
    for name in TINY_SHARDS:
        with tarfile.open(tiny_shards / name) as tar:
            for member in tar:
                assert (member.mtime, member.uid, member.gid) == (0, 0, 0)
                assert (member.uname, member.gname, member.mode) == ("", "", 0o644)


def test_the_manifest_tells_what_lies_on_the_disk(tiny_shards: Path) -> None:
    for shard in load_manifest(tiny_shards).all_shards():
        data = (tiny_shards / shard.name).read_bytes()
        assert (shard.bytes, shard.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        found = members(tiny_shards / shard.name)
        labels = [int(text) for name, text in found.items() if name.endswith(".cls")]
        assert shard.class_counts == [labels.count(label) for label in range(7)]
