"""The choice of reader, and what all readers refuse."""

import os
import re
import zipfile
from pathlib import Path

import pytest

from pattlite_dist.shards.sources.base import Reading
from pattlite_dist.shards.sources.ferplus import FerPlus
from pattlite_dist.shards.sources.registry import KINDS, open_source
from tests.conftest import ROOT
from tests.shards.conftest import csv_text, face, pack, write_csv
from tests.shards.sources.conftest import images, refused, write_tree, write_zip
from tests.sources import read_rows

CSV = csv_text([face(2, "PrivateTest")]).encode()
FACES = csv_text([face(2)], ("emotion", "pixels")).encode()
FER_FOLDER = images(["train/angry/Training_1.png", "train/sad/Training_2.png"])
RAF_DB = {
    "EmoLabel/list_patition_label.txt": b"train_00001.jpg 5\ntest_0001.jpg 1\n",
    **images(["Image/aligned/train_00001_aligned.jpg", "Image/aligned/test_0001_aligned.jpg"]),
}
CK48 = images(["anger/S010_004_00000017.png", "fear/S011_003_00000012.png"])
TREE = images(["train/cat/1.png", "train/dog/2.png"])
KAGGLE = {
    **images(["DATASET/train/5/train_00001_aligned.jpg", "DATASET/test/1/test_0001_aligned.jpg"]),
    "train_labels.csv": b"image,label\ntrain_00001_aligned.jpg,5\n",
}
NUMBERS = images(f"train/{label}/{i}.png" for label in range(7) for i in range(2))
FOREIGN = {"train.csv": b"image,label\n1.png,cat\n", "train.txt": b"1.png cat\n"}

CONTENT = {
    "fer2013.csv": ({"README.txt": b"read me", "fer2013.csv": CSV}, "fer2013-csv"),
    "icml": ({"icml_face_data.csv": CSV, "train.csv": b"", "test.csv": b""}, "fer2013-csv"),
    "RAF-DB as on Kaggle": (KAGGLE, "raf-db"),
    "FER2013 by number": (NUMBERS, "fer2013-folder"),
    "a tree without suffixes": (
        {name.removesuffix(".png"): data for name, data in TREE.items()},
        "folder",
    ),
    "fer2013.csv among images": ({"fer2013.csv": CSV, **FER_FOLDER}, "fer2013-csv"),
    "another csv alone": ({"faces.csv": CSV}, "fer2013-csv"),
    "challenge": ({"train.csv": FACES, "example_submission.csv": b"1"}, "fer2013-challenge"),
    "FER2013 as images": ({**FER_FOLDER, **FOREIGN}, "fer2013-folder"),
    "RAF-DB": ({**RAF_DB, **FOREIGN}, "raf-db"),
    "CK+48": ({**CK48, **FOREIGN}, "ck+48"),
    "a table": (
        {"labels.csv": b"image,label\ntrain/cat/1.png,cat\n2.png,dog", **TREE},
        "label-table",
    ),
    "Roboflow": (
        {"train/_classes.csv": b"filename,cat,dog\n1.png,1,0\n2.png,0,1\n", **TREE},
        "roboflow",
    ),
    "FER+ folders": (
        {
            "FER2013Train/label.csv": b'1.png,"(0, 0, 48, 48)",9,0,0,0,0,0,0,0,0,0\n'
            b'2.png,"(0, 0, 48, 48)",0,9,0,0,0,0,0,0,0,0\n',
            **images(["FER2013Train/1.png", "FER2013Train/2.png"]),
        },
        "ferplus-folder",
    ),
    "a tree": ({**TREE, "train.txt": b"1.png cat\n"}, "folder"),
}
# The others; see their own tests.
ELSEWHERE = {"ck+csv", "expw", "affectnet", "webdataset", "hub-parquet"}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("what", CONTENT)
def test_the_reader_is_told_by_what_lies_there(tmp_path: Path, what: str, packed: bool) -> None:
    content, kind = CONTENT[what]
    for top in ("", "data/set/"):
        path = tmp_path / ("set.zip" if packed else f"set{len(top)}")
        if packed:
            write_zip(path, content, top)
        else:
            write_tree(path / top, content)
        source = open_source(path)
        assert next(iter(source.items())).row == 0
        assert source.kind == kind


def test_each_kind_is_in_the_table_of_the_specification_and_has_a_test() -> None:
    names = [kind.name for kind in KINDS]
    table = (ROOT / "shards/README.md").read_text().split("## What `create` reads")[1]
    assert re.findall(r"^\| `([^`]+)` \|", table.split("## ")[0], re.MULTILINE) == names
    assert {kind.removesuffix("-challenge") for _, kind in CONTENT.values()} - {"fer2013"} == (
        set(names) - ELSEWHERE
    )


@pytest.mark.parametrize(
    "suffix", [".csv", ".csv.xz", ".csv.gz", ".csv.zip", ".zip", ".CSV", ".ZIP", ".CSV.GZ"]
)
def test_a_csv_of_any_name_and_packing_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"faces{suffix}"
    write_csv(tmp_path / f"any{suffix.lower()}", [face(2, "PrivateTest")]).rename(path)
    assert [(row.label, row.split) for row in read_rows(open_source(path))] == [(2, "test")]


@pytest.mark.parametrize("name", ["fer2013.csv", "fer2013.csv.xz", "fer2013.csv.zip"])
def test_a_folder_may_hold_a_packed_csv(tmp_path: Path, name: str) -> None:
    write_csv(tmp_path / name, [face(2, "PrivateTest")])
    assert [(row.label, row.split) for row in read_rows(open_source(tmp_path))] == [(2, "test")]


def test_in_a_zip_the_file_named_fer2013_is_preferred(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"more.csv": b"other", "fer/fer2013.csv": CSV})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/fer/fer2013.csv", "\0\1\2")
    assert [row.label for row in read_rows(open_source(path))] == [2]


def test_the_challenges_two_files_are_read_as_one_source(tmp_path: Path) -> None:
    test = csv_text([face()], ("pixels",)).encode()
    path = write_zip(tmp_path / "a.zip", {"train.csv": FACES, "test.csv": test})
    message = refused(lambda: list(open_source(path).items()), "member test.csv", "row 1 (line 2)")
    assert "--unlabelled skip" in message
    source = open_source(path, Reading(unlabelled="skip"))
    assert [item.row for item in source.items()] == [0]
    assert source.left_out == {"unlabelled": 1}


def test_a_reader_can_be_forced(tmp_path: Path) -> None:
    path = write_tree(tmp_path / "set", {"fer2013.csv": CSV, **FER_FOLDER})
    assert open_source(path).kind == "fer2013-csv"
    for kind in ("fer2013-csv", "fer2013-folder", "folder"):
        assert open_source(path, Reading(kind=kind)).kind == kind
    assert open_source(path / "fer2013.csv", Reading(kind="fer2013-csv")).kind == "fer2013-csv"


@pytest.mark.parametrize("kind", [kind.name for kind in KINDS])
def test_a_forced_reader_refuses_what_is_not_its_own(tmp_path: Path, kind: str) -> None:
    (tmp_path / "README.txt").write_text("read me")
    refused(lambda: open_source(tmp_path, Reading(kind=kind)), str(tmp_path))


def test_a_csv_is_not_read_by_a_reader_of_folders(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "fer2013.csv", [face()])
    refused(lambda: open_source(path, Reading(kind="folder")), str(path), "--source folder")


@pytest.mark.parametrize("kind", ["nonsense", "", "Folder", "a\nb"])
def test_an_unknown_reader_is_refused_with_the_known_ones(tmp_path: Path, kind: str) -> None:
    refused(
        lambda: open_source(tmp_path, Reading(kind=kind)),
        "--source ",
        ", ".join(["auto", *(kind.name for kind in KINDS)]),
    )


@pytest.mark.parametrize("name", ["none.csv", "none.zip", "none", "none/none", "a\nb"])
def test_what_is_not_there_is_refused(tmp_path: Path, name: str) -> None:
    refused(lambda: open_source(tmp_path / name), "none" if "none" in name else "a\\nb", "exist")


def test_a_path_that_cannot_be_looked_at_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(lambda: open_source(tmp_path / "file" / "x.csv"), "does not exist")
    refused(lambda: open_source(tmp_path / ("x" * 300)), "cannot read", "too long")


@pytest.mark.parametrize(
    "name", ["faces.npz", "fer2013", "fer2013.csv.bz2", "fer2013.tsvx", "faces.tar.xz", ".csvx"]
)
def test_an_unknown_kind_of_file_is_refused_with_the_known_ones(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("something")
    refused(
        lambda: open_source(tmp_path / name),
        f"{tmp_path / name} is of an unknown kind", ".csv, .csv.xz, .csv.gz, .csv.zip, .zip",
    )  # fmt: skip


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fer2013.csv")
    refused(lambda: open_source(tmp_path / "fer2013.csv"), "neither a folder nor a file")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({}, "contains nothing that can be read"),
        ({"README.txt": b"read me"}, "contains nothing that can be read"),
        ({"fer2013new.csv": b"votes"}, "contains nothing that can be read"),
        ({"1.png": b"", "2.png": b""}, "contains nothing that can be read"),
        ({"a.csv": CSV, "b.csv": CSV}, "contains 2 CSV files, but must contain one"),
        (
            {"a/fer2013.csv": CSV, "b/fer2013.csv": CSV},
            "contains 2 CSV files, but must contain one",
        ),
        ({"a/train.csv": CSV, "b/train.csv": CSV}, "contains 2 CSV files, but must contain one"),
    ],
)
def test_a_folder_or_zip_of_nothing_known_is_refused(
    tmp_path: Path, content: dict[str, bytes], told: str, packed: bool
) -> None:
    path = tmp_path / ("set.zip" if packed else "set")
    if packed:
        write_zip(path, content)
    else:
        path.mkdir()
        write_tree(path, content)
    refused(lambda: open_source(path), str(path), told)


def test_a_folder_of_a_csv_files_name_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.csv").mkdir()
    write_csv(tmp_path / "a.csv" / "fer2013.csv", [face(4)])
    assert [row.label for row in read_rows(open_source(tmp_path / "a.csv"))] == [4]
    (tmp_path / "b.csv" / "fer2013.csv").mkdir(parents=True)
    refused(lambda: open_source(tmp_path / "b.csv"), "contains nothing that can be read")


def test_files_that_go_before_they_are_read_are_refused(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "fer2013.csv", [face()])
    source = open_source(path)
    path.unlink()
    refused(lambda: list(source.items()), "cannot read", str(path), "No such file")


@pytest.mark.parametrize("suffix", [".csv.zip", ".zip"])
def test_a_broken_zip_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"fer2013{suffix}"
    for data in (b"", b"something", write_csv(path, [face()]).read_bytes()[:-9]):
        path.write_bytes(data)
        refused(lambda: open_source(path), str(path), "is not a zip, or is truncated or damaged")


def votes(path: Path) -> Path:
    return pack(
        path,
        "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,"
        "NF\nTraining,fer0000000.png,10,0,0,0,0,0,0,0,0,0\n",
    )


@pytest.mark.parametrize("target", ["labels", "majority", "soft"])
def test_votes_are_joined_to_a_csv(tmp_path: Path, target: str) -> None:
    path = write_csv(tmp_path / "fer2013.csv", [face(6)])
    reading = Reading(votes=votes(tmp_path / "fer2013new.csv.gz"), target=target)  # type: ignore[arg-type]
    source = open_source(path, reading)
    assert isinstance(source, FerPlus)
    (item,) = source.items()
    assert item.label == (6 if target == "labels" else 0)
    assert open_source(tmp_path, reading).kind == "fer2013-csv+ferplus"  # next to the votes


@pytest.mark.parametrize("target", ["majority", "soft"])
def test_targets_of_votes_need_votes(tmp_path: Path, target: str) -> None:
    path = write_csv(tmp_path / "fer2013.csv", [face()])
    reading = Reading(target=target)  # type: ignore[arg-type]
    refused(lambda: open_source(path, reading), f"--target {target}", "--votes FILE")


def test_votes_without_rows_of_a_csv_are_refused(tmp_path: Path) -> None:
    reading = Reading(votes=votes(tmp_path / "fer2013new.csv"))
    path = write_tree(tmp_path / "set", FER_FOLDER)
    refused(lambda: open_source(path, reading), "fer2013-folder", "leave out the votes")


@pytest.mark.parametrize("name", ["none.csv", "", "x" * 300])
def test_votes_that_are_not_there_are_refused(tmp_path: Path, name: str) -> None:
    path = write_csv(tmp_path / "fer2013.csv", [face()])
    reading = Reading(votes=tmp_path / name)
    refused(lambda: open_source(path, reading), str(tmp_path / name))


def test_damaged_votes_are_told_as_votes(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "fer2013.csv", [face()])
    (tmp_path / "votes.csv").write_bytes(b'"\xff')
    source = open_source(path, Reading(votes=tmp_path / "votes.csv"))
    message = refused(lambda: list(source.items()), "votes.csv is not text")
    assert "fer2013.csv" not in message
