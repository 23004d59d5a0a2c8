import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from pattlite_dist.errors import UserError
from pattlite_dist.shards.manifest import load_manifest
from pattlite_dist.shards.verify import class_table, read_shard_file, verify_shards
from tests.shards.conftest import TINY_SHARDS


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "flipped":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif how == "truncated":
        path.write_bytes(data[:-1024])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "missing":
        path.unlink()
    elif how == "folder":
        path.unlink()
        path.mkdir()


def edit_manifest(folder: Path, name: str, **changes: Any) -> None:
    """Change what the manifest says of one shard."""
    content = json.loads((folder / "manifest.json").read_text())
    for shards in content["shards"].values():
        for shard in shards:
            if shard["name"] == name:
                shard.update(changes)
    (folder / "manifest.json").write_text(json.dumps(content))


def test_a_whole_set_has_no_problems(tiny_shards: Path) -> None:
    assert verify_shards(tiny_shards) == (load_manifest(tiny_shards), [])


@pytest.mark.parametrize("name", TINY_SHARDS)
@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("flipped", "differs from its manifest (SHA-256)"),
        ("truncated", "bytes, its manifest says"),
        ("empty", "has 0 bytes, its manifest says"),
        ("missing", "is missing though its manifest names it"),
        ("folder", "Is a directory"),
    ],
)
def test_a_bad_shard_is_named(shard_copy: Path, name: str, how: str, told: str) -> None:
    damage(shard_copy / name, how)
    _, (problem,) = verify_shards(shard_copy)
    assert str(shard_copy / name) in problem
    assert told in problem
    assert "\n" not in problem


def test_every_bad_shard_is_named_in_the_order_of_the_manifest(shard_copy: Path) -> None:
    for name, how in {
        "train-000000.tar": "flipped",
        "train-000002.tar": "missing",
        "val-000000.tar": "truncated",
        "test-000000.tar": "empty",
    }.items():
        damage(shard_copy / name, how)
    told: list[tuple[str, int, int | None]] = []
    manifest, problems = verify_shards(shard_copy, lambda *what: told.append(what))
    assert manifest == load_manifest(shard_copy)
    assert [problem.split(".tar")[0].rsplit("/", 1)[1] for problem in problems] == [
        "train-000000",
        "train-000002",
        "val-000000",
        "test-000000",
    ]
    assert told == [("verify", done, 5) for done in range(1, 6)]


def test_shards_that_changed_places_are_both_named(shard_copy: Path) -> None:
    first, second = shard_copy / "train-000000.tar", shard_copy / "train-000001.tar"
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    assert len(verify_shards(shard_copy)[1]) == 2


def test_a_sample_more_than_the_manifest_says_is_told(shard_copy: Path) -> None:
    # The two samples of the last shard of train are of unlike classes: leave one out.
    (shard,) = (
        shard
        for shard in load_manifest(shard_copy).shards["train"]
        if shard.name == "train-000002.tar"
    )
    counts = list(shard.class_counts)
    counts[next(label for label, count in enumerate(counts) if count)] -= 1
    edit_manifest(shard_copy, shard.name, samples=1, class_counts=counts)
    _, (problem,) = verify_shards(shard_copy)
    assert "train-000002.tar: 2 samples where the manifest says 1" in problem


def test_wrong_class_counts_are_told(shard_copy: Path) -> None:
    edit_manifest(shard_copy, "val-000000.tar", class_counts=[8, 0, 0, 0, 0, 0, 0])
    _, (problem,) = verify_shards(shard_copy)
    assert "val-000000.tar: class counts [1, 2, 1, 1, 1, 1, 1], its manifest says [8" in problem


def test_a_shard_whose_manifest_was_made_to_agree_is_still_decoded(shard_copy: Path) -> None:
    data = b"not a tar at all"
    (shard_copy / "val-000000.tar").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    edit_manifest(shard_copy, "val-000000.tar", bytes=len(data), sha256=digest)
    _, (problem,) = verify_shards(shard_copy)
    assert "val-000000.tar" in problem


def test_images_of_another_shape_than_the_manifest_says_are_told(shard_copy: Path) -> None:
    content = json.loads((shard_copy / "manifest.json").read_text())
    content["image"]["height"] = 47
    (shard_copy / "manifest.json").write_text(json.dumps(content))
    _, problems = verify_shards(shard_copy)
    assert len(problems) == len(TINY_SHARDS)
    assert all("an image is L of 48x48 where L of 48x47 is needed" in text for text in problems)


def test_a_folder_without_a_manifest_is_a_user_error(shard_copy: Path) -> None:
    (shard_copy / "manifest.json").unlink()
    with pytest.raises(UserError, match="not a finished shard set"):
        verify_shards(shard_copy)


def test_files_that_the_manifest_does_not_name_are_let_be(shard_copy: Path) -> None:
    (shard_copy / "train-000009.tar").write_bytes(b"something")
    assert verify_shards(shard_copy)[1] == []


def test_a_missing_shard_file_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x\.tar is missing though its manifest names it"):
        read_shard_file(tmp_path / "x.tar")


def test_the_table_tells_the_counts_by_split_and_class(tiny_shards: Path) -> None:
    labels = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
    assert class_table(load_manifest(tiny_shards)) == [
        ["split", *labels, "all", "shards", "blank", "dropped", "leaks"],
        ["train", "6", "0", "3", "5", "2", "1", "5", "22", "3", "2", "2", "0"],
        ["val", "1", "2", "1", "1", "1", "1", "1", "8", "1", "1", "0", "1"],
        ["test", "8", "0", "0", "0", "0", "0", "0", "8", "1", "0", "0", "2"],
    ]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_table_of_a_set_without_a_split_counts_nothing_there(
    shard_copy: Path, split: str
) -> None:
    content = json.loads((shard_copy / "manifest.json").read_text())
    del content["shards"][split], content["findings"][split]
    (shard_copy / "manifest.json").write_text(json.dumps(content))
    (row,) = (row for row in class_table(load_manifest(shard_copy)) if row[0] == split)
    assert row == [split, *["0"] * 12]
