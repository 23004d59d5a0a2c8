from pathlib import Path

import pytest

from pattlite_dist.shards.sources.registry import open_source
from pattlite_dist.shards.sources.roboflow import Roboflow, matches
from tests.shards.sources.conftest import check_packings, images, read, refused, write_tree

HEAD = b"filename, Angry, Happy, Unlabeled\n"


def content(rows: bytes = b"a.jpg, 0, 1, 0\nb.jpg, 1, 0, 0\n") -> dict[str, bytes]:
    names = ["train/a.jpg", "train/b.jpg", "valid/a.jpg", "test/c.jpg"]
    return {
        **images(names),
        "train/_classes.csv": HEAD + rows,
        "valid/_classes.csv": HEAD + b"a.jpg, 0, 1, 0\n",
        "test/_classes.csv": HEAD + b"c.jpg, 1, 0, 0\n",
    }


def test_each_split_has_its_table(tmp_path: Path) -> None:
    items = check_packings(Roboflow, tmp_path, content())
    source = open_source(tmp_path / "tree")
    assert source.kind == "roboflow" and source.cut == ()
    assert [((i.facts or {})["file"], source.labels[i.label], i.split) for i in items] == [
        ("test/c.jpg", "angry", "test"), ("train/a.jpg", "happy", "train"),
        ("train/b.jpg", "angry", "train"), ("valid/a.jpg", "happy", "val"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        (b"a.jpg, 1, 1, 0\n", "it has 2 classes"),
        (b"a.jpg, 1, 0\n", "3 times 0 or 1"),
        (b"a.jpg, yes, 0, 0\n", "3 times 0 or 1"),
        (b"a.jpg, 0, 0, 1\n", "it has no class"),
        (b"x.jpg, 0, 1, 0\n", "there is no image 'x.jpg'"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, rows: bytes, what: str) -> None:
    path = write_tree(tmp_path, content(rows))
    refused(lambda: read(Roboflow, path), "train/_classes.csv, line 2", what)


def test_images_without_a_class_may_be_skipped(tmp_path: Path) -> None:
    rows = b"a.jpg, 0, 1, 0\nb.jpg, 1, 0, 0\n"
    extra = {"train/_classes.csv": HEAD + rows + b"d.jpg, 0, 0, 1\ne.jpg, 0, 0, 0\n"}
    path = write_tree(tmp_path, content() | images(["train/d.jpg", "train/e.jpg"]) | extra)
    source, items = read(Roboflow, path, unlabelled="skip")
    assert len(items) == 4 and source.left_out == {"no label": 2, "not in the table": 2}


@pytest.mark.parametrize("head", [b"", b"filename\n", b"filename, A\n", b"filename, A, A\n"])
def test_a_table_without_classes_is_refused(tmp_path: Path, head: bytes) -> None:
    path = write_tree(tmp_path, content() | {"train/_classes.csv": head})
    refused(lambda: read(Roboflow, path), "train/_classes.csv", "does not name the classes")


def test_what_matches_has_a_table() -> None:
    assert matches(["train/_classes.csv"]) and not matches(["train/classes.csv"])
