import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest

from pattlite_dist.errors import UserError
from pattlite_dist.shards.manifest import load_manifest
from pattlite_dist.shards.verify import read_shard_file, verify_shards, wrong_sizes
from tests.shards import flawed
from tests.shards.flawed import edit_manifest, edit_shard, flawed_set, forge, forge_facts

NAMES = [
    "train-000000.tar", "train-000001.tar", "train-000002.tar", "val-000000.tar", "test-000000.tar"
]  # fmt: skip


def lines(folder: Path) -> list[str]:
    return [problem.line for problem in verify_shards(folder)[1]]


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


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"blanks": "drop"},
        {"blanks": "keep"},
        {"leaks": "keep"},
        {"leaks": "drop-train"},
        {"blanks": "drop", "leaks": "drop-train"},
    ],
)
def test_a_set_as_it_was_made_has_no_problems(tmp_path: Path, options: dict[str, Any]) -> None:
    folder = flawed_set(tmp_path, **options)
    assert verify_shards(folder) == (load_manifest(folder), [])


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("flipped", "differs from its manifest (SHA-256)"),
        ("truncated", "bytes, its manifest says"),
        ("empty", "has 0 bytes, its manifest says"),
        ("missing", "is missing although its manifest names it"),
        ("folder", "Is a directory"),
    ],
)
def test_a_bad_shard_is_named(shards: Path, how: str, told: str) -> None:
    damage(shards / "train-000001.tar", how)
    _, (problem,) = verify_shards(shards)
    assert problem.name == "train-000001.tar"
    assert str(shards / "train-000001.tar") in problem.line
    assert told in problem.line
    assert "\n" not in problem.line


def test_every_bad_shard_is_named_in_the_order_of_the_manifest_by_any_number_of_processes(
    shards: Path,
) -> None:
    bad = ["train-000000.tar", "train-000002.tar", "val-000000.tar", "test-000000.tar"]
    for name, how in zip(bad, ["flipped", "missing", "truncated", "empty"], strict=True):
        damage(shards / name, how)
    told: list[tuple[str, int, int | None]] = []
    manifest, problems = verify_shards(shards, 1, lambda *what: told.append(what))
    assert manifest == load_manifest(shards)
    assert [problem.name for problem in problems] == bad
    assert told == [("verify", done, 20) for done in (5, 10, 12, 16, 20)]
    assert verify_shards(shards, 2) == (manifest, problems)


def test_shards_that_changed_places_are_both_named(shards: Path) -> None:
    first, second = shards / "train-000000.tar", shards / "train-000001.tar"
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    assert [problem.name for problem in verify_shards(shards)[1]] == [first.name, second.name]


def test_a_sample_more_than_the_manifest_says_is_told(shards: Path) -> None:
    counts = [0] * 7
    counts[flawed.LABELS[10]] = 1  # row 11 is not mentioned
    edit_shard(shards, "train-000002.tar", samples=1, class_counts=counts)
    (line,) = lines(shards)
    assert "train-000002.tar: 2 samples, the manifest says 1" in line


def test_wrong_class_counts_are_told(shards: Path) -> None:
    edit_shard(shards, "val-000000.tar", class_counts=[4, 0, 0, 0, 0, 0, 0])
    (line,) = lines(shards)
    assert "val-000000.tar: class counts [1, 1, 1, 1, 0, 0, 0], its manifest says [4, 0" in line


def test_a_shard_whose_manifest_was_made_to_agree_is_still_decoded(shards: Path) -> None:
    data = b"not a tar at all" * 1000
    (shards / "val-000000.tar").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    edit_shard(shards, "val-000000.tar", bytes=len(data), sha256=digest)
    (line,) = lines(shards)
    assert "val-000000.tar" in line


def test_images_of_another_shape_than_the_manifest_says_are_told(shards: Path) -> None:
    edit_manifest(shards, lambda content: content["image"].update(height=47))
    told = lines(shards)
    assert len(told) == len(NAMES)
    assert all("an image is L of 48x48, but must be L of 48x47" in line for line in told)


@pytest.mark.parametrize(
    ("row", "facts", "told"),
    [
        (3, {"row": 4}, "the JSON of sample 00000003 says 4, 'train', 'happy'"),
        (3, {"row": "3"}, "sample 00000003 says '3'"),
        (3, {"row": True}, "sample 00000003 says True"),
        (3, {"row": None}, "sample 00000003 says None"),
        (3, {"split": "val"}, "'val', 'happy', but it is a sample of train with the label happy"),
        (3, {"label": "sad"}, "'train', 'sad', but it is a sample of train with the label happy"),
        (3, {"blank": True}, "row 3 is marked as blank, its manifest says otherwise"),
        (3, {"near_blank": True}, "row 3 is marked as nearly blank, its manifest says"),
        (flawed.BLANK, {"blank": False}, "row 1 is not marked as blank"),
        (flawed.NEAR_BLANK, {"near_blank": False}, "row 2 is not marked as nearly blank"),
        (flawed.NEAR_BLANK, {"near_blank": None}, "row 2 is not marked as nearly blank"),
    ],
)
def test_what_a_sample_says_of_itself_is_compared(
    shards: Path, row: int, facts: dict[str, Any], told: str
) -> None:
    forge_facts(shards, "train-000000.tar", row, **facts)
    _, (problem,) = verify_shards(shards)
    assert problem.name == "train-000000.tar"
    assert problem.line.startswith(str(shards / "train-000000.tar"))
    assert told in problem.line


def test_a_sample_that_is_not_named_by_its_row_is_told(shards: Path) -> None:
    forge(shards, "train-000000.tar", lambda name, data: (name.replace("00000003", "3"), data))
    (line,) = lines(shards)
    assert "the JSON of sample 3 says 3" in line


@pytest.mark.parametrize(
    ("split", "found", "shard", "told"),
    [
        ("train", {"blank_rows": []}, 0, "says that the image of row 1 is not blank"),
        ("train", {"blank_rows": [1, 3]}, 0, "says that the image of row 3 is blank"),
        ("train", {"near_blank_rows": [3]}, 0, "row 2 is marked as nearly blank"),
        ("train", {"dropped_rows": [8]}, 1, "row 8 is here, but the manifest says"),
        ("train", {"copies": 1}, None, "set/train: 2 copies in its shards, 1 in its manifest"),
        ("train", {"conflicts": 2}, None, "set/train: 3 conflicts in its shards, 2 in"),
        ("val", {"leaks": 0}, None, "set/val: 1 leaks in its shards, 0 in its manifest"),
        ("test", {"leaks": 2}, None, "set/test: 1 leaks in its shards, 2 in its manifest"),
    ],
)
def test_what_the_manifest_found_is_compared(
    shards: Path, split: str, found: dict[str, Any], shard: int | None, told: str
) -> None:
    edit_manifest(shards, lambda content: content["findings"][split].update(found))
    _, (problem,) = verify_shards(shards)
    assert problem.name == ("" if shard is None else f"{split}-{shard:06d}.tar")
    assert told in problem.line
    assert problem.line.endswith("; create the shards again")


def test_a_split_of_which_a_shard_is_bad_is_not_judged_as_a_whole(shards: Path) -> None:
    edit_manifest(shards, lambda content: content["findings"]["train"].update(copies=9))
    damage(shards / "train-000002.tar", "missing")
    (line,) = lines(shards)
    assert "train-000002.tar is missing" in line


def test_rows_that_are_there_twice_are_told(shards: Path) -> None:
    shutil.copy(shards / "train-000000.tar", shards / "train-000001.tar")
    (first, *_) = load_manifest(shards).shards["train"]
    edit_shard(shards, "train-000001.tar", **first.model_dump(exclude={"name"}))
    assert "set/train: 5 rows appear more than once; create the shards again" in lines(shards)[0]


def test_a_set_of_the_first_version_is_held_to_what_it_says(shards: Path) -> None:
    later = ("near_blank_rows", "copies", "conflicts", "converted")

    def age(content: dict[str, Any]) -> None:
        content["version"] = 1
        for name in ("options", "identical", "votes"):
            content.pop(name, None)
        for findings in content["findings"].values():
            for name in later:
                del findings[name]

    for name in NAMES:
        forge_facts(shards, name, -1, near_blank=None, copies=None, conflict=None)
    edit_manifest(shards, age)
    assert lines(shards) == []
    edit_manifest(shards, lambda content: content["findings"]["val"].update(leaks=2))
    (line,) = lines(shards)
    assert "1 leaks in its shards, 2 in its manifest" in line


def test_a_folder_without_a_manifest_is_a_user_error(shards: Path) -> None:
    (shards / "manifest.json").unlink()
    with pytest.raises(UserError, match="not a finished shard set"):
        verify_shards(shards)


def test_tar_files_that_the_manifest_does_not_name_are_told_and_other_files_are_not(
    shards: Path,
) -> None:
    for name in ("train-000009.tar", "notes.txt", "samples.png"):
        (shards / name).write_bytes(b"something")
    _, (problem,) = verify_shards(shards)
    assert problem.name == ""
    assert problem.line.startswith(f"{shards / 'train-000009.tar'} is not a shard of this set; ")


def test_a_missing_shard_file_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x\.tar is missing although its manifest names it"):
        read_shard_file(tmp_path / "x.tar")


def test_wrong_sizes_are_told_without_a_look_inside(shards: Path) -> None:
    damage(shards / "train-000000.tar", "flipped")
    damage(shards / "train-000001.tar", "missing")
    damage(shards / "val-000000.tar", "truncated")
    missing, short = wrong_sizes(shards, load_manifest(shards).all_shards())
    assert "train-000001.tar is missing, its manifest says" in missing
    assert "val-000000.tar has " in short
