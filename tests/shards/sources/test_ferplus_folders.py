from pathlib import Path

import pytest

from pattlite_dist.shards.sources.base import Reading
from pattlite_dist.shards.sources.ferplus import FERPLUS_VOTES
from pattlite_dist.shards.sources.ferplus_folders import FerPlusFolder, matches
from pattlite_dist.shards.sources.registry import open_source
from pattlite_dist.shards.sources.spellings import EIGHT_EMOTIONS
from tests.shards.sources.conftest import check_packings, images, read, refused, write_tree

FOLDERS = ("FER2013Train", "FER2013Valid", "FER2013Test")
ROW = '{}.png,"(0, 0, 48, 48)",{}\n'
HAPPY, MIXED, NO_FACE = "1,8,0,0,0,0,0,0,1,0", "0,5,5,0,0,0,0,0,0,0", "0,0,0,0,0,0,0,0,0,10"


def content(more: str = "") -> dict[str, bytes]:
    found = images([f"{folder}/fer{i}.png" for folder in FOLDERS for i in (1, 2)])
    for folder in FOLDERS:
        rows = ROW.format("fer1", HAPPY) + ROW.format("fer2", "9,1,0,0,0,0,0,0,0,0")
        found[f"{folder}/label.csv"] = (rows + (more if folder == FOLDERS[0] else "")).encode()
    return found


def test_the_majority_of_the_votes_is_the_class(tmp_path: Path) -> None:
    more = ROW.format("fer3", MIXED) + ROW.format("fer4", NO_FACE)
    items = check_packings(FerPlusFolder, tmp_path, content(more))
    source = open_source(tmp_path / "tree")
    assert source.kind == "ferplus-folder" and source.votes == FERPLUS_VOTES
    assert [(source.labels[item.label], item.split) for item in items] == [
        ("happy", "train"), ("neutral", "train"), ("happy", "val"), ("neutral", "val"),
        ("happy", "test"), ("neutral", "test"),
    ]  # fmt: skip
    assert (items[0].facts or {})["votes"] == [1, 8, 0, 0, 0, 0, 0, 0, 1, 0]
    assert source.left_out == {"no majority": 1, "not a face": 1}
    assert source.image.shape == (1, 48, 48) and source.labels == EIGHT_EMOTIONS


def test_shares_of_the_votes_are_targets(tmp_path: Path) -> None:
    path = write_tree(
        tmp_path, content(ROW.format("fer3", MIXED)) | images([f"{FOLDERS[0]}/fer3.png"])
    )
    items = list(open_source(path, Reading(target="soft")).items())
    assert (items[2].facts or {})["target"] == [0, 0, 0, 0.5, 0, 0.5, 0, 0]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (ROW.format("fer9", HAPPY), "there is no image 'fer9.png'"),
        (ROW.format("fer1", HAPPY), "names FER2013Train/fer1.png again"),
        (ROW.format("fer1", HAPPY).replace("0, 0", "1, 0"), "its box is"),
        (ROW.format("fer1", HAPPY[2:]), "10 numbers of votes"),
        (ROW.format("fer1", HAPPY.replace("8", "x")), "10 numbers of votes"),
        ("x\n", "10 numbers of votes"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named(tmp_path: Path, row: str, what: str) -> None:
    path = write_tree(tmp_path, content(row))
    refused(lambda: read(FerPlusFolder, path), "FER2013Train/label.csv, line 3", what)


def test_what_matches_has_a_folder_of_ferplus() -> None:
    assert matches(["data/FER2013Test/label.csv"]) and not matches(["Test/label.csv"])
