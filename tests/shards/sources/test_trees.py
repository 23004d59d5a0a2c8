from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pattlite_dist.shards.sources import ckplus, fer_folders, rafdb, trees
from pattlite_dist.shards.sources.trees import Tree, class_names, matches, place
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

FLAT = ["cat/1.png", "cat/10.png", "dog/2.png"]
FULL = ["test/cat/5.png", "train/cat/1.png", "train/dog/2.png", "val/dog/4.png"]


def told(items: list[Any]) -> list[tuple[str, int, str | None]]:
    return [(item.facts["file"], item.label, item.split) for item in items]


def test_class_folders_alone_are_to_be_cut(tmp_path: Path) -> None:
    items = check_packings(Tree, tmp_path, images(FLAT))
    assert told(items) == [(FLAT[0], 0, None), (FLAT[1], 0, None), (FLAT[2], 1, None)]
    source, _ = read(Tree, tmp_path / "tree")
    assert source.labels == ("cat", "dog") and source.cut == ("val", "test")
    assert source.left_out == {}


@pytest.mark.parametrize("val", ["val", "Valid", "validation", "DEV"])
def test_splits_are_those_of_the_folders(tmp_path: Path, val: str) -> None:
    names = [name.replace("val", val) for name in FULL]
    source, items = read(Tree, write_tree(tmp_path, images(names)))
    assert sorted(told(items)) == sorted([
        (names[0], 0, "test"), (names[1], 0, "train"), (names[2], 1, "train"), (names[3], 1, "val"),
    ])  # fmt: skip
    assert source.cut == ()


@pytest.mark.parametrize(
    ("gone", "cut"),
    [("val", ("val",)), ("test", ("test",)), ("val test", ("val", "test"))],
)
def test_what_lacks_a_split_gets_it_cut_from_train(
    tmp_path: Path, gone: str, cut: tuple[str, ...]
) -> None:
    names = [name for name in FULL if name.split("/")[0] not in gone.split()]
    source, items = read(Tree, write_tree(tmp_path, images(names)))
    assert source.cut == cut
    for item in items:
        folder = str((item.facts or {})["file"]).split("/")[0]
        assert item.split == (None if folder == "train" else folder)


def test_emotions_take_the_order_and_names_of_fer2013(tmp_path: Path) -> None:
    names = [f"{folder}/1.png" for folder in ("Anger", "Neutral", "happiness", "sadness")]
    source, items = read(Tree, write_tree(tmp_path, images(names)))
    assert source.labels == ("angry", "happy", "sad", "neutral")
    assert [item.label for item in items] == [0, 3, 1, 2]


def test_contempt_is_the_eighth_emotion(tmp_path: Path) -> None:
    names = [f"{folder}/1.png" for folder in ("Sadness", "Contempt", "Anger")]
    source, _ = read(Tree, write_tree(tmp_path, images(names)))
    assert source.labels == ("angry", "sad", "contempt")


def test_other_classes_beside_emotions_are_sorted_by_name(tmp_path: Path) -> None:
    names = [f"{folder}/1.png" for folder in ("Sadness", "bored", "Anger", "Contempt")]
    source, _ = read(Tree, write_tree(tmp_path, images(names)))
    assert source.labels == ("angry", "bored", "contempt", "sad")


def test_one_emotion_may_be_spelled_in_two_ways(tmp_path: Path) -> None:
    names = ["train/anger/1.png", "train/sad/2.png", "test/Angry/3.png", "val/sadness/4.png"]
    source, items = read(Tree, write_tree(tmp_path, images(names)))
    assert source.labels == ("angry", "sad")
    assert {item.split: item.label for item in items if item.split != "train"} == {
        "test": 0, "val": 1,
    }  # fmt: skip


def test_images_are_brought_to_the_commonest_form(tmp_path: Path) -> None:
    content = {
        "a/1.png": encoded(picture(1, "RGB", (40, 50))),
        "a/2.png": encoded(picture(2, "RGBA", (40, 50))),
        "b/3.jpg": encoded(picture(3, "L", (90, 100)), "JPEG"),
        "b/4.bmp": encoded(picture(4, "RGB", (40, 50)), "BMP"),
    }
    source, items = read(Tree, write_tree(tmp_path, content))
    assert source.image.shape == (3, 50, 40)
    found = [source.decode(item) for item in items]
    assert [image.shape for image, _ in found] == [(3, 50, 40)] * 4
    assert [converted for _, converted in found] == [False, True, True, False]
    np.testing.assert_array_equal(found[3][0], pixels(picture(4, "RGB", (40, 50))))


def test_what_is_no_image_is_passed_over_and_counted(tmp_path: Path) -> None:
    content = images(FLAT) | {"cat/notes.txt": b"", "dog/x.mp4": b"", "LICENSE": b""}
    source, items = read(Tree, write_tree(tmp_path, content))
    assert len(items) == 3
    assert source.left_out == {"not an image": 3}


@pytest.mark.parametrize(
    ("names", "stray"), [(FULL, "test/9.png"), (FULL, "9.png"), (FLAT, "9.png")]
)
def test_an_image_without_a_label_is_refused_or_passed_over(
    tmp_path: Path, names: list[str], stray: str
) -> None:
    write_tree(tmp_path, images([*names, stray]))
    refused(
        lambda: read(Tree, tmp_path), str(tmp_path / stray), "not in a class folder", "--unlabelled"
    )
    source, items = read(Tree, tmp_path, unlabelled="skip")
    assert len(items) == len(names)
    assert source.left_out == {"no label": 1}


def test_a_test_split_without_labels_is_none(tmp_path: Path) -> None:
    names = ["train/cat/1.png", "train/dog/1.png", "val/cat/2.png", "test/3.png"]
    source, _ = read(Tree, write_tree(tmp_path, images(names)), unlabelled="skip")
    assert source.cut == ("test",)


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["train/cat/1.png", "train/dog/1.png", "val/cow/1.png"], "class 'cow' has no images in"),
        (["train/cat/1.png", "train/dog/1.png", "test/Cow/1.png"], "class 'Cow' has no images in"),
        (["val/cat/1.png", "test/dog/1.png"], "class 'cat' has no images in train"),
        (["train/cat/1.png", "test/cat/2.png"], "images of 1 class"),
        (["happy/1.png"], "images of 1 class"),
        (["train/cat/1.png", "cat/1.png", "dog/2.png"], "'cat' is next to splits"),
        (["cat/1.png", "dog/young/2.png"], "inside the class folder 'dog'"),
        (["a/train/cat/1.png", "b/train/cat/2.png"], "inside the class folder 'a'"),
        (["train/cat/a/1.png", "train/dog/2.png"], "inside the class folder 'cat'"),
        ([], "no labelled images"),
        (["cat/1.txt"], "no labelled images"),
    ],
)
def test_a_tree_of_another_form_is_refused(tmp_path: Path, names: list[str], what: str) -> None:
    write_tree(tmp_path, images(names))
    refused(lambda: read(Tree, tmp_path), str(tmp_path), what)


def test_a_damaged_first_image_is_named_when_it_is_decoded(tmp_path: Path) -> None:
    write_tree(tmp_path, images(FLAT) | {FLAT[0]: b"no image"})
    source, items = read(Tree, tmp_path)
    assert source.image.shape == (1, 48, 48)
    refused(lambda: source.decode(items[0]), FLAT[0], "not an image of a known format (PNG")
    write_tree(tmp_path, dict.fromkeys(FLAT, b"no image"))
    refused(lambda: read(Tree, tmp_path), FLAT[0], "not an image of a known format (PNG")
    assert len(read(Tree, tmp_path, image_size=48, channels=1)[1]) == 3


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["train/angry/Training_1.png", "test/angry/PublicTest_2.png"], fer_folders),
        (["Training/3/1.png", "PrivateTest/3/2.png"], fer_folders),
        (["EmoLabel/list_patition_label.txt", "Image/aligned/train_00001_aligned.jpg"], rafdb),
        (["anger/S010_004_00000017.png", "fear/S011_004_00000019.png"], ckplus),
        (["train/anger/S010_004_00000017.png", "val/fear/S011_004_00000019.png"], trees),
        (["train/angry/im0.png", "test/angry/im1.png"], trees),
        (["training/3/17.png", "testing/3/1.png"], trees),
        (FLAT, trees),
        (FULL, trees),
        (["1.png", "2.png"], None),
        (["fer2013.csv"], None),
        ([], None),
    ],
)
def test_one_reader_claims_each_tree(names: list[str], kind: Any) -> None:
    claims = [one for one in (fer_folders, rafdb, ckplus, trees) if one.matches(sorted(names))]
    assert claims == ([kind] if kind else [])


NAMES = st.lists(
    st.sampled_from(["train", "val", "test", "cat", "dog", "1.png", "2.txt", ""]),
    min_size=1,
    max_size=4,
).map("/".join)


@given(name=NAMES, has_splits=st.booleans())
def test_an_image_has_one_class_folder_or_is_none_or_refused(name: str, has_splits: bool) -> None:
    try:
        found = place(name, has_splits)
    except ValueError as error:
        assert str(error).isprintable()
        return
    depth = name.count("/") - has_splits
    assert (found is None) == (depth < 1)
    if found is not None:
        assert depth == 1 and found.folder == name.split("/")[-2]
        assert (found.split is None) != has_splits


@given(names=st.sets(st.sampled_from(["sad", "Anger", "angry", "cat", "dog", "Neutral", "fear"])))
def test_labels_cover_the_classes_whatever_they_are_called(names: set[str]) -> None:
    places = [trees.Place(f"{name}/1.png", None, name) for name in names]
    try:
        classes, labels = class_names(places)
    except ValueError:
        assert len(names - {"Anger"}) < 2
        return
    assert set(labels) == names
    assert set(labels.values()) == set(range(len(classes)))
    assert len(set(classes)) == len(classes) >= 2


@given(names=st.lists(NAMES))
def test_looking_at_names_never_fails(names: list[str]) -> None:
    assert matches(sorted(names)) in (True, False)
