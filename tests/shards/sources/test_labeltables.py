import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pattlite_dist.errors import UserError
from pattlite_dist.shards.sources.base import Item, Reading, Source
from pattlite_dist.shards.sources.labeltables import LabelTable, lists_images, matches
from pattlite_dist.shards.sources.registry import open_source
from tests.shards.sources.conftest import (
    check_packings,
    encoded,
    images,
    picture,
    pixels,
    read,
    refused,
    write_tree,
)

NAMES = ["images/0.jpg", "images/1.jpg", "images/2.jpg"]
TABLE = b"image,label\nimages/0.jpg,happy\nimages/1.jpg,Anger\nimages/2.jpg,happiness\n"


def listed(table: str | bytes, name: str = "labels.csv", **more: bytes) -> dict[str, bytes]:
    """Three images and a table of them."""
    data = table.encode() if isinstance(table, str) else table
    return {name: data, **images(NAMES), **more}


def told(source: Source, items: list[Item]) -> list[tuple[Any, str, str | None]]:
    """File, class and split of each item."""
    return [((i.facts or {})["file"], source.labels[i.label], i.split) for i in items]


def read_tree(tmp_path: Path, content: Mapping[str, bytes], **reading: Any) -> list[Any]:
    return told(*read(LabelTable, write_tree(tmp_path / "set", content), **reading))


HAPPY_ANGRY = [(NAMES[0], "happy", None), (NAMES[1], "angry", None), (NAMES[2], "happy", None)]


def test_a_table_says_the_classes_and_both_splits_are_to_be_cut(tmp_path: Path) -> None:
    check_packings(LabelTable, tmp_path, listed(TABLE))
    source, items = read(LabelTable, tmp_path / "tree")
    assert told(source, items) == HAPPY_ANGRY
    assert source.labels == ("angry", "happy") and source.cut == ("val", "test")
    assert source.kind == "label-table"
    assert source.name == "labels.csv (images: image, labels: label)"


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("labels.csv", TABLE.replace(b"\n", b"\r\n")),
        ("labels.csv", b"\xef\xbb\xbf" + TABLE),
        ("labels.csv", TABLE.replace(b",", b";")),
        ("labels.csv", TABLE.replace(b"\n", b"\n\n")),
        ("labels.tsv", TABLE.replace(b",", b"\t")),
        ("labels.csv.gz", gzip.compress(TABLE, mtime=0)),
        ("images/labels.csv", TABLE.replace(b"images/", b"")),
        ("annotations/labels.csv", TABLE),
        ("labels.csv", TABLE.replace(b"images/", b"/home/me/faces/images/")),
        ("labels.csv", TABLE.replace(b"images/", b"images\\")),
        ("labels.csv", TABLE.replace(b"images/", b"").replace(b".jpg", b"")),
        ("labels.csv", TABLE.replace(b"image,label", b" File_Name , Expression ")),
        ("labels.csv", b",pth,label\n" + b"".join(
            b"%d,images/%d.jpg,%s\n" % (i, i, c) for i, c in enumerate([b"Joy", b"anger", b"happy"])
        )),
        ("labels.csv", TABLE.partition(b"\n")[2]),
    ],
)  # fmt: skip
def test_tables_are_read_as_people_have_them(tmp_path: Path, name: str, table: bytes) -> None:
    assert read_tree(tmp_path, listed(table, name)) == HAPPY_ANGRY


def test_columns_may_be_named(tmp_path: Path) -> None:
    table = "who,mood,part\n0,happy,train\n1,sad,train\n2,sad,test\n"
    content = listed(table)
    columns = {"image_column": "who", "label_column": "Mood", "split_column": "part"}
    assert read_tree(tmp_path, content, **columns) == [
        (NAMES[0], "happy", None), (NAMES[1], "sad", None), (NAMES[2], "sad", "test"),
    ]  # fmt: skip
    refused(lambda: read_tree(tmp_path, content), "labels.csv", "who, mood, part", "--image-column")
    refused(lambda: read_tree(tmp_path, content, image_column="x"), "no column 'x'")


def test_a_column_may_have_a_number_for_its_name(tmp_path: Path) -> None:
    content = listed("0,1,2\nimages/0.jpg,happy,x\nimages/1.jpg,sad,y\nimages/2.jpg,sad,y\n")
    found = read_tree(tmp_path, content, image_column="0", label_column="1")
    assert [name for _, name, _ in found] == ["happy", "sad", "sad"]
    without = {**content, "labels.csv": content["labels.csv"].partition(b"\n")[2]}
    found = read_tree(tmp_path, without, image_column="1", label_column="2")  # counted from 1
    assert [name for _, name, _ in found] == ["happy", "sad", "sad"]


def test_several_usual_names_are_not_guessed_among(tmp_path: Path) -> None:
    content = listed(TABLE.replace(b"label", b"label,emotion").replace(b"py", b"py,1"))
    refused(lambda: read_tree(tmp_path, content), "label, emotion", "--label-column")


@pytest.mark.parametrize("header", ["usage", "Split"])
def test_the_split_is_in_a_column(tmp_path: Path, header: str) -> None:
    table = f"image,label,{header}\n0,sad,Training\n1,fear,train\n2,sad,PrivateTest\n"
    assert [split for _, _, split in read_tree(tmp_path, listed(table))] == [None, None, "test"]
    bad = listed(table.replace("PrivateTest", "third"))
    refused(lambda: read_tree(tmp_path, bad), "line 4", "'third' is not a split")


def test_the_split_is_in_the_name_of_the_table(tmp_path: Path) -> None:
    content = {
        **images(["0.png", "1.png", "2.png", "3.png"]),
        "train_labels.csv": b"image,label\n0.png,a\n1.png,b\n",
        "test_labels.csv": b"image,label\n2.png,a\n",
        "valid.csv": b"image,label\n3.png,b\n",
    }
    assert sorted(read_tree(tmp_path, content)) == [
        ("0.png", "a", "train"), ("1.png", "b", "train"), ("2.png", "a", "test"),
        ("3.png", "b", "val"),
    ]  # fmt: skip


def test_the_split_is_in_the_folders_of_the_images(tmp_path: Path) -> None:
    names = ["train_images/a.png", "train_images/b.png", "test_images/a.png"]
    table = "image,label\n" + "\n".join(f"{n},{i % 2} x" for i, n in enumerate(names))
    found = read_tree(tmp_path, {**images(names), "labels.csv": table.encode()})
    assert [split for _, _, split in found] == [None, None, "test"]


def test_numbers_are_named_by_a_file_or_refused(tmp_path: Path) -> None:
    content = listed("image,label\n0,1\n1,0.0\n2,1\n")
    refused(lambda: read_tree(tmp_path, content), "numbers (0.0, 1)", "classnames.txt")
    names = {"classnames.txt": b"sadness\ndog\n"}
    assert [name for _, name, _ in read_tree(tmp_path, content | names)] == ["dog", "sad", "dog"]
    few = {"classnames.txt": b"dog\n"}
    refused(lambda: read_tree(tmp_path, content | few), "the label 1 is not one of the 1")
    twice = {"classnames.txt": b"dog\nDog\n"}
    refused(lambda: read_tree(tmp_path, content | twice), "classnames.txt", "appears twice")


def test_images_without_a_row_and_other_tables_are_counted(tmp_path: Path) -> None:
    content = listed(TABLE, **images(["images/9.png"]), **{"results.csv": b"epoch,loss\n1,2\n"})
    source, _ = read(LabelTable, write_tree(tmp_path, content))
    assert source.left_out == {"other tables": 1, "not in the table": 1}


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ("images/7.jpg,sad", "there is no image 'images/7.jpg'"),
        ("images/0.jpg,sad", "it names images/0.jpg again, after"),
        ("images/0.jpg", "1 fields, but 2 are needed"),
        ("images/0.jpg,sad,x", "3 fields, but 2 are needed"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: str, what: str) -> None:
    refused(lambda: read_tree(tmp_path, listed(TABLE + row.encode())), "labels.csv, line 5", what)


def test_rows_without_a_label_are_refused_or_skipped(tmp_path: Path) -> None:
    content = listed(TABLE.replace(b"Anger", b"").replace(b"happiness", b"sad"))
    refused(lambda: read_tree(tmp_path, content), "line 3", "no label", "--unlabelled skip")
    source, items = read(LabelTable, tmp_path / "set", unlabelled="skip")
    assert len(items) == 2 and source.left_out == {"no label": 1, "not in the table": 1}


def test_captions_are_no_classes(tmp_path: Path) -> None:
    names = [f"{i}.png" for i in range(24)]
    table = "image,label\n" + "".join(f"{n},a face no. {n}\n" for n in names)
    content = {"labels.csv": table.encode(), **dict.fromkeys(names, encoded(1))}
    refused(lambda: read_tree(tmp_path, content), "24 different labels", "--label-column")


def test_a_class_without_train_images_or_alone_is_refused(tmp_path: Path) -> None:
    table = "image,label,split\n0,sad,train\n1,fear,test\n2,sad,test\n"
    refused(lambda: read_tree(tmp_path, listed(table)), "'fear' has no images in train")
    table = table.replace("fear", "sad")
    refused(lambda: read_tree(tmp_path, listed(table)), "one class (sad)")


def test_a_name_that_fits_several_images_is_refused(tmp_path: Path) -> None:
    names = ["a/1.png", "b/1.png", "b/2.png"]
    content = {**images(names), "labels.csv": b"image,label\n1.png,x\n2.png,y\n"}
    refused(lambda: read_tree(tmp_path, content), "'1.png' may be any of 2 images")
    content = {**images(names), "labels.csv": b"image,label\n/x/a/1.png,x\n2.png,y\n"}
    assert read_tree(tmp_path, content) == [("a/1.png", "x", None), ("b/2.png", "y", None)]


def test_the_hash_covers_what_the_table_says(tmp_path: Path) -> None:
    hashes = set()
    for table in (TABLE, TABLE.replace(b"Anger", b"fear"), TABLE.replace(b"Anger", b"anger")):
        source, _ = read(LabelTable, write_tree(tmp_path, listed(table)))
        hashes.add(source.sha256)
    assert len(hashes) == 3


AFFECTNET = (
    "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,"
    "valence,arousal\n"
)


def affectnet() -> dict[str, bytes]:
    """AffectNet's two tables, the second without a header, and photographs of 60x50 pixels."""
    rows = ["1/a.jpg,10,5,20,30,1;2,1,0.5,0.1", "1/b.jpg,0,0,60,50,1;2,7,0.5,0.1"]
    rows += ["2/c.jpg,-5,0,30,30,1;2,1,0.5,0.1", "2/d.jpg,NULL,NULL,NULL,NULL,,10,-2,-2"]
    photographs = {
        f"Manually_Annotated_Images/{row.split(',')[0]}": encoded(picture(i, "RGB", (60, 50)))
        for i, row in enumerate(rows)
    }
    return {
        "training.csv": (AFFECTNET + "\n".join(rows[:2])).encode(),
        "validation.csv": "\n".join(rows[2:]).encode(),
        **photographs,
    }


def test_affectnets_tables_have_boxes_names_and_no_test(tmp_path: Path) -> None:
    path = write_tree(tmp_path, affectnet())
    refused(lambda: read(LabelTable, path), "many sizes", "--image-size 100")
    source, items = read(LabelTable, path, image_size=20)
    assert [(source.labels[i.label], i.split) for i in items] == [
        ("happy", None), ("contempt", None), ("happy", "val"),
    ]  # fmt: skip
    assert source.cut == ("test",) and source.left_out == {"no face": 1, "not in the table": 1}
    assert source.image.shape == (3, 20, 20)
    assert [(item.facts or {})["box"] for item in items] == [
        [10, 5, 30, 35], [0, 0, 60, 50], [-5, 0, 25, 30],
    ]  # fmt: skip
    found, converted = source.decode(items[0])
    face = picture(0, "RGB", (60, 50)).crop((10, 10, 30, 30))  # fitted to a square
    assert converted and np.array_equal(found, pixels(face))


def test_a_box_outside_its_image_is_refused(tmp_path: Path) -> None:
    content = affectnet()
    content["training.csv"] = content["training.csv"].replace(b"10,5,20,30", b"60,5,20,30")
    source, items = read(LabelTable, write_tree(tmp_path, content), image_size=20)
    refused(lambda: source.decode(items[0]), "1/a.jpg", "60, 5, 80, 35 is not in the image")


def test_a_folder_with_images_and_a_table_is_read_by_it(tmp_path: Path) -> None:
    path = write_tree(tmp_path / "set", listed(TABLE))
    assert open_source(path).kind == "label-table"
    source = open_source(path / "labels.csv")
    assert told(source, list(source.items())) == HAPPY_ANGRY
    refused(lambda: open_source(path / "labels.csv", Reading(kind="folder")), "is a label table")


def test_a_tree_of_classes_beside_which_lies_another_table_is_read_as_a_tree(
    tmp_path: Path,
) -> None:
    tree = images([f"train/{c}/{i}.png" for c in ("cat", "dog") for i in range(3)])
    for table in (b"epoch,loss\n1,2\n", b"image,label\n0.png,cat\n", b""):
        path = write_tree(tmp_path / "set", {**tree, "results.csv": table})
        assert open_source(path).kind == "folder"
    table = "image,label\n" + "".join(f"{name},{name.split('/')[1][:1]}\n" for name in tree)
    source = open_source(write_tree(tmp_path / "set", {"results.csv": table.encode()}))
    assert (source.kind, source.labels) == ("label-table", ("c", "d"))
    assert "results.csv (images: image, labels: label)" in source.notes[0]


def test_of_several_tables_the_given_one_is_read(tmp_path: Path) -> None:
    path = write_tree(tmp_path, listed(TABLE, **{"all.csv": TABLE.replace(b"Anger", b"fear")}))
    refused(lambda: read(LabelTable, path), "again, after", "give the one table")
    assert open_source(path / "all.csv").labels == ("fear", "happy")


def test_tables_are_told_from_csv_files_of_pixels(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"emotion,pixels,Usage\n0,1 2,Training\n")
    (tmp_path / "b.csv").write_bytes(b"emotion,pixels,image\n0,1 2,x\n")
    (tmp_path / "c.csv").write_bytes(b"\0\1\xff")
    (tmp_path / "d.csv").write_bytes(b"image;label\n")
    found = [lists_images(tmp_path / f"{name}.csv", Reading()) for name in "abcd"]
    assert found == [False, False, False, True]


def test_what_matches_has_images_and_a_table() -> None:
    assert matches(["a.csv", "x/1.png"]) and matches(["a.parquet", "1.jpg"])
    assert not matches(["a.csv"]) and not matches(["1.png", "a.txt"])


def test_parquet_without_pyarrow_is_one_line_with_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    path = write_tree(tmp_path, listed(b"PAR1", "labels.parquet"))
    for where in (path, path / "labels.parquet"):
        with pytest.raises(UserError, match=r"pip install 'pattlite_dist\[parquet\]'$"):
            open_source(where)


def test_an_image_may_be_of_any_mode(tmp_path: Path) -> None:
    content = {**images(["0.png"]), "1.png": encoded(Image.new("RGB", (8, 8), (9, 8, 7)))}
    table = {"labels.csv": b"image,label\n0.png,a\n1.png,b\n"}
    source, items = read(LabelTable, write_tree(tmp_path, content | table), image_size=8)
    assert [source.decode(item)[0].shape for item in items] == [(1, 8, 8)] * 2
