"""Trees whose folders hold images and are no classes."""

import json
from pathlib import Path

import pytest

from pattlite_dist.shards.sources.base import Reading
from pattlite_dist.shards.sources.registry import open_source
from pattlite_dist.shards.sources.trees import Tree
from tests.shards.sources.conftest import encoded, images, read, refused, write_tree

ONE = encoded(0)


def tree(*folders: str, each: int = 3, file: str = "{}.png") -> dict[str, bytes]:
    return {f"{folder}/{file.format(i)}": ONE for folder in folders for i in range(each)}


def sidecars(content: dict[str, bytes], suffix: str, data: bytes) -> dict[str, bytes]:
    return content | {name.rpartition(".")[0] + suffix: data for name in content}


CHUNK = tree("first", "second")
TREES = {
    "FER+'s output": (tree("FER2013Train", "FER2013Valid", "FER2013Test"), "names say a split"),
    "two splits": (tree("train_images", "test_images"), "names say a split"),
    "splits beside others": (tree("trainset", "Val-faces", "more"), "names say a split"),
    "splits with emotions": (tree("train-data", "testing images", "happy"), "names say a split"),
    "public and private": (tree("my PublicTest", "my PrivateTest"), "names say a split"),
    "a JSON a picture": (sidecars(CHUNK, ".json", b"{}"), "6 of 6 images have a .json beside"),
    "captions": (sidecars(CHUNK, ".txt", b"a face"), "6 of 6 images have a .txt beside"),
    "numbered chunks": (sidecars(tree("00000", "00001"), ".json", b"{}"), "a .json beside"),
    "AffectNet's numbers": (tree(*"01234567"), "nothing tells what they mean"),
    "numbers in splits": (tree("train/1", "train/2", "val/1"), "nothing tells what they mean"),
    "persons": (tree("S005", "S010", "S138"), "but persons"),
    "persons by sex": (tree("AF01", "AM22", "BF03"), "but persons"),
    "persons in words": (tree("subject 1", "Subject_12"), "but persons"),
    "persons of VGGFace2": (tree("n000001", "n009294"), "but persons"),
    "pieces": (tree("part1", "part2", "part10"), "but pieces"),
    "names of images": (
        tree("anna", "bert", file="{}_happy.png") | tree("anna", "bert", file="{}-Anger.png"),
        "the names of the images say their emotions (anna/0",
    ),
    "a table": (tree("anna", "bert") | {"labels.csv": b"image,label\n0.png,happy\n"},
                "labels.csv gives the images other labels"),
    "a table of paths": (
        tree("anna", "bert") | {"meta/all.tsv": b"path\tis\nanna/0.png\tsad\nbert/1.png\tfear\n"},
        "meta/all.tsv gives the images other labels",
    ),
    "a list": (tree("left", "right") | {"label.lst": b"0.png 1 20 30 40 50 0.9 3\n"},
               "label.lst gives the images other labels"),
    "annotations": (
        tree("a", "b") | {"coco.json": json.dumps({"images": [{"file_name": "0.png"}]}).encode()},
        "coco.json gives the images other labels",
    ),
    "many folders of few": (tree(*(f"Name {chr(97 + i)}" for i in range(20)), each=2),
                            "20 of them hold 40 images"),
}  # fmt: skip


@pytest.mark.parametrize("what", TREES)
def test_folders_that_are_no_classes_are_refused_unless_the_user_insists(
    tmp_path: Path, what: str
) -> None:
    content, told = TREES[what]
    write_tree(tmp_path, content)
    message = refused(lambda: read(Tree, tmp_path), f"{tmp_path}: its folders (", told)
    assert message.endswith("say so with --source folder") and len(message) < 450 + len(
        str(tmp_path)
    )
    source = open_source(tmp_path, Reading(kind="folder"))
    assert source.kind == "folder" and len(source.labels) > 1


@pytest.mark.parametrize("what", ["numbers in splits", "AffectNet's numbers"])
def test_numbers_are_told_with_the_data_sets_that_they_may_be_of(tmp_path: Path, what: str) -> None:
    write_tree(tmp_path, TREES[what][0])
    message = refused(lambda: read(Tree, tmp_path), "no classes")
    assert ("--source fer2013-folder if" in message) == (what == "numbers in splits")
    assert ("say --source raf-db if 1 is surprise, 2 is fear, 3" in message) == (
        what == "numbers in splits"
    )


@pytest.mark.parametrize(
    "content",
    [
        tree("cat", "dog"),
        tree("train/cat", "train/dog", "test/cat"),
        tree("bullet train", "tram", "bus"),  # one name with a split's word
        tree("happy", "sad", file="{}_sad.png"),
        sidecars(tree("Anger", "Fear"), ".json", b"{}"),
        tree("happy", "sad") | {"labels.csv": b"image,label\n0.png,fear\n"},
        tree("cat", "dog") | {"labels.csv": b"image,label\ncat/0.png,cat\n"},
        tree("cat", "dog") | {"sizes.csv": b"name,size\nbig,3\n"},
        tree("n01440764", "n01443537"),  # ImageNet's
        tree("c0", "c1", "c2"),
        tree("AU01", "AU12"),
        tree(*(f"class {chr(97 + i)}" for i in range(20)), each=3),
    ],
)
def test_classes_are_not_doubted(tmp_path: Path, content: dict[str, bytes]) -> None:
    source, items = read(Tree, write_tree(tmp_path, content))
    assert source.kind == "folder"
    assert len(items) == sum(name.endswith(".png") for name in content)


def test_a_class_left_empty_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    content = images(["train/happy/1.png", "train/sad/2.png"])
    write_tree(tmp_path / "1", content | {"train/fear/1.mp4": b"", "train/fear/2.txt": b""})
    refused(lambda: read(Tree, tmp_path / "1"), "train/fear", "no images, only 1 .mp4 (1 in train")
    write_tree(tmp_path / "2", content | {"train/fear/list.txt": b""})
    refused(lambda: read(Tree, tmp_path / "2"), "train/fear: it has no images, only 1 .txt")
    write_tree(tmp_path / "3", content)
    (tmp_path / "3" / "train" / "bored").mkdir()
    refused(lambda: read(Tree, tmp_path / "3"), "train/bored: it has no images; put its images")


def test_folders_of_text_and_empty_ones_elsewhere_are_no_classes(tmp_path: Path) -> None:
    content = images(["happy/1.png", "sad/2.png"]) | {
        "annotations/1.xml": b"",
        "sad/old/x.txt": b"",
    }
    write_tree(tmp_path, content)
    (tmp_path / "happy" / "more").mkdir()
    (tmp_path / ".cache").mkdir()
    source, _ = read(Tree, tmp_path)
    assert source.labels == ("happy", "sad")
    assert source.left_out == {"not an image": 2}
    assert source.notes == [  # type: ignore[attr-defined]
        "passed over, not an image: 1 .txt (1 in sad/old), 1 .xml (1 in annotations)"
    ]
