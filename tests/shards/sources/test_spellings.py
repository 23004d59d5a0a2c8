import pytest
from hypothesis import given
from hypothesis import strategies as st

from pattlite_dist.shards.sources.base import EMOTIONS
from pattlite_dist.shards.sources.spellings import (
    class_name,
    common_top,
    emotion,
    folded,
    is_image,
    is_litter,
    plain_name,
    shown,
    split_folder,
)

PART = st.text("ab.\\/ \n\u00e9", min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        *((name, name) for name in EMOTIONS),
        ("Anger", "angry"),
        ("DISGUSTED", "disgust"),
        ("fearful", "fear"),
        ("Happiness", "happy"),
        ("sadness ", "sad"),
        ("Surprised", "surprise"),
        ("suprise", "surprise"),
    ],
)
def test_emotions_are_known_by_common_spellings(name: str, label: str) -> None:
    found = emotion(name)
    assert found is not None and EMOTIONS[found] == label


@pytest.mark.parametrize("name", ["contempt", "", "0", "cat", "angry happy", "not_angry"])
def test_other_names_are_no_emotions(name: str) -> None:
    assert emotion(name) is None


def test_splits_are_known_by_common_spellings() -> None:
    assert {name: split_folder(name) for name in ("Train", "TRAINING", "valid", "dev", "Test")} == {
        "Train": "train", "TRAINING": "train", "valid": "val", "dev": "val", "Test": "test",
    }  # fmt: skip
    assert (split_folder("PublicTest"), split_folder("privatetest")) == ("val", "test")
    assert split_folder("trains") is None and split_folder("") is None


def test_images_are_told_by_suffix_in_any_case() -> None:
    assert all(map(is_image, ["a.PNG", "c.jpeg", "a/b.jfif", "c.JPE", "d.pgm"]))
    assert not any(map(is_image, ["b.txt", "png", "d.png.txt", "png/x"]))


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("Anger", "angry"),
        ("CONTEMPT ", "contempt"),
        ("Contemptuous", "contempt"),
        ("Cat", "cat"),
        ("cafe\u0301", "caf\u00e9"),
        ("\u00c9tonne\u0301", "\u00e9tonn\u00e9"),
        ("\u9ad8\u5174", "\u9ad8\u5174"),
        ("not_angry", "not_angry"),
    ],
)
def test_a_class_has_one_name_however_its_folder_is_written(folder: str, name: str) -> None:
    assert class_name(folder) == name
    assert class_name(name) == name


@given(text=st.text("aB \u00c4\u00df\u00e9e\u0301\u0130\u0131\u212a"))
def test_a_folded_name_stays_as_it_is(text: str) -> None:
    assert folded(folded(text)) == folded(text) == folded(f" {text}")


@pytest.mark.parametrize(
    ("names", "top"),
    [
        ([], ""),
        (["1.png"], ""),
        (["a/1.png"], ""),
        (["a/b/1.png"], "a/"),
        (["a/b/1.png", "a/2.png"], "a/"),
        (["a/b/c/1.png", "a/b/d/2.png"], "a/b/"),
        (["a/train/c/1.png", "a/train/d/1.png"], "a/"),
        (["a/train/c/1.png", "b/train/c/1.png"], ""),
        (["train/c/1.png"], ""),
    ],
)
def test_folders_around_everything_are_looked_through(names: list[str], top: str) -> None:
    assert common_top(names) == top


@given(names=st.lists(st.lists(st.sampled_from(["a", "b", "test"]), min_size=1, max_size=4)))
def test_what_is_looked_through_leaves_a_folder(
    names: list[list[str]],
) -> None:
    joined = ["/".join(parts) for parts in names]
    top = common_top(joined)
    assert all(name.startswith(top) for name in joined)
    assert "test" not in top
    assert not top or any("/" in name.removeprefix(top) for name in joined)


@given(member=PART)
def test_a_plain_name_is_relative_and_stays_inside(member: str) -> None:
    try:
        name = plain_name(member)
    except ValueError:
        assert ".." in member
        return
    assert not name.startswith("/") and "\\" not in name
    assert not {"", ".", ".."} & set(name.split("/")) or name == ""
    assert plain_name(name) == name


def test_litter_is_told_anywhere_in_a_name() -> None:
    assert all(map(is_litter, [".a", "a/.b/c", "__MACOSX/a", "a/THUMBS.db", "a/desktop.ini"]))
    assert not any(map(is_litter, ["a.png", "a/b.c/d", "thumbs.db.png"]))


@given(text=st.text())
def test_what_is_shown_takes_one_line(text: str) -> None:
    assert shown(text).isprintable()
