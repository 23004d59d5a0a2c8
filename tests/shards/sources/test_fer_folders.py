from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pattlite_dist.shards.sources.base import EMOTIONS, Reading
from pattlite_dist.shards.sources.fer_folders import FerFolder, matches, parse_name
from pattlite_dist.shards.sources.files import open_files
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

SPLITS = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}
ROWS = [("Training", 6), ("Training", 0), ("Training", 4), ("PublicTest", 5), ("PublicTest", 3),
        ("PrivateTest", 1), ("PrivateTest", 2)]  # fmt: skip
PREFIXED = [
    f"{'train' if usage == 'Training' else 'test'}/{EMOTIONS[label]}/{usage}_{row}.png"
    for row, (usage, label) in enumerate(ROWS, start=7)  # so that 10 follows 9
]
NUMBERED = [f"{usage}/{label}/{row}.png" for row, (usage, label) in enumerate(ROWS, start=7)]


@pytest.mark.parametrize("names", [PREFIXED, NUMBERED])
def test_images_come_in_the_order_of_the_csv(tmp_path: Path, names: list[str]) -> None:
    content = images(names)
    items = check_packings(FerFolder, tmp_path, content)
    assert [(item.split, item.label) for item in items] == [
        (SPLITS[usage], label) for usage, label in ROWS
    ]
    assert [item.facts for item in items] == [{"file": name} for name in names]
    assert [item.data for item in items] == list(content.values())
    source, _ = read(FerFolder, tmp_path / "tree")
    assert source.labels == EMOTIONS and source.cut == ()
    for seed, item in enumerate(items):
        found, converted = source.decode(item)
        np.testing.assert_array_equal(found, pixels(picture(seed)), strict=True)
        assert not converted


def test_public_and_private_test_are_told_apart_by_file_name(tmp_path: Path) -> None:
    names = [f"test/angry/{usage}_{number}.png" for number, usage in enumerate(SPLITS)][1:]
    _, items = read(FerFolder, write_tree(tmp_path, images(names)))
    assert [item.split for item in items] == ["val", "test"]


def test_labels_are_those_of_names_and_never_of_the_order_of_folders(tmp_path: Path) -> None:
    spellings = ["Anger", "disgusted", "FEAR", "happiness", "Sadness", "suprise", "neutral"]
    names = [f"train/{name}/Training_{number}.png" for number, name in enumerate(spellings)]
    _, items = read(FerFolder, write_tree(tmp_path, images(names)))
    assert [item.label for item in items] == list(range(7))


def test_some_are_rgba(tmp_path: Path) -> None:
    content = {
        "Training/3/1.png": encoded(1),
        "Training/3/2.png": encoded(picture(2).convert("RGBA")),
    }
    source, items = read(FerFolder, write_tree(tmp_path, content))
    found = [source.decode(item) for item in items]
    assert [converted for _, converted in found] == [False, True]
    np.testing.assert_array_equal(found[1][0], pixels(picture(2)))
    source, items = read(FerFolder, tmp_path, other_images="refuse")
    refused(lambda: source.decode(items[1]), "Training/3/2.png", "RGBA 48x48")


def test_the_user_may_want_another_size(tmp_path: Path) -> None:
    write_tree(tmp_path, images(PREFIXED))
    source, items = read(FerFolder, tmp_path, image_size=24, channels=3)
    assert source.decode(items[0])[0].shape == source.image.shape == (3, 24, 24)


def test_folders_of_splits_may_be_left_out(tmp_path: Path) -> None:
    names = ["angry/PrivateTest_2.png", "fear/Training_9.png", "sad/PublicTest_1.png"]
    _, items = read(FerFolder, write_tree(tmp_path, images(names)))
    assert [(item.split, item.label) for item in items] == [("train", 2), ("val", 4), ("test", 0)]


def test_one_number_twice_is_sorted_by_name(tmp_path: Path) -> None:
    names = ["train/angry/Training_5.png", "train/happy/Training_5.png"]
    assert [item.label for item in check_packings(FerFolder, tmp_path, images(names))] == [0, 3]


def test_files_without_a_number_come_last(tmp_path: Path) -> None:
    names = ["Training/0/a.png", "Training/0/b-2.png", "Training/0/b-10.png"]
    items = check_packings(FerFolder, tmp_path, images(names))
    assert [item.facts for item in items] == [{"file": names[place]} for place in (1, 2, 0)]


def test_what_is_no_image_is_passed_over_and_counted(tmp_path: Path) -> None:
    content = images(PREFIXED) | {"README.md": b"", "train/angry/list.txt": b"", ".hidden": b""}
    source, items = read(FerFolder, write_tree(tmp_path, content))
    assert len(items) == len(PREFIXED)
    assert source.left_out == {"not an image": 2}


@pytest.mark.parametrize("name", ["test/PrivateTest_9.png", "Training/9.png", "9.png"])
def test_an_image_without_a_label_is_refused_or_passed_over(tmp_path: Path, name: str) -> None:
    write_tree(tmp_path, images([*PREFIXED, name]))
    refused(
        lambda: read(FerFolder, tmp_path), str(tmp_path / name), "not in a class", "--unlabelled"
    )
    source, items = read(FerFolder, tmp_path, unlabelled="skip")
    assert len(items) == len(PREFIXED)
    assert source.left_out == {"no label": 1}


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("test/angry/Training_1.png", "its name says Training, but its folder says test"),
        ("train/angry/PublicTest_1.png", "its name says PublicTest, but its folder says train"),
        ("val/angry/PrivateTest_1.png", "its name says PrivateTest, but its folder says val"),
        ("PublicTest/angry/PrivateTest_1.png", "its folder says PublicTest"),
        ("Training/7/1.png", "'7' is not one of angry"),
        ("Training/-1/1.png", "'-1' is not one of angry"),
        ("Training/\u0663/1.png", "is not one of angry"),
        ("train/contempt/Training_1.png", "'contempt' is not one of angry"),
        ("other/angry/Training_1.png", "'other' is not a split"),
        ("train/angry/deep/Training_1.png", "too deep"),
        ("test/angry/1.png", "is not Training_"),
        ("train/angry/Training_1 (copy).png", "is not Training_"),
        ("train/angry/Training_.png", "is not Training_"),
        (f"train/angry/Training_{'9' * 5000}"[:200] + ".png", "is not Training_"),
    ],
)
def test_an_image_in_the_wrong_place_is_refused(tmp_path: Path, name: str, what: str) -> None:
    write_tree(tmp_path, images([*PREFIXED, name]))
    refused(lambda: read(FerFolder, tmp_path), str(tmp_path / name), what, "--source folder")


@pytest.mark.parametrize("content", [{}, {"train/angry/notes.txt": b""}])
def test_a_tree_without_images_is_refused(tmp_path: Path, content: dict[str, bytes]) -> None:
    write_tree(tmp_path, content)
    refused(lambda: read(FerFolder, tmp_path), str(tmp_path), "no labelled images")


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    name = "train/angry/Training_1.jpg"
    source, items = read(FerFolder, write_tree(tmp_path, {name: encoded(1, "JPEG")[:-300]}))
    refused(lambda: source.decode(items[0]), str(tmp_path / name), "truncated or damaged")


def test_an_image_that_vanishes_is_named(tmp_path: Path) -> None:
    source, _ = read(FerFolder, write_tree(tmp_path, images(PREFIXED)))
    (tmp_path / PREFIXED[3]).unlink()
    refused(lambda: list(source.items()), PREFIXED[3], "No such file")
    refused(lambda: read(FerFolder, tmp_path / "gone"), "gone", "No such file")


def test_the_hash_tells_content_and_names(tmp_path: Path) -> None:
    content = images(PREFIXED)
    hashes = set()
    for number, other in enumerate([
        content,
        content | {PREFIXED[0]: encoded(99)},
        {name.replace("angry", "fear"): data for name, data in content.items()},
        content | {PREFIXED[0]: content[PREFIXED[1]], PREFIXED[1]: content[PREFIXED[0]]},
    ]):  # fmt: skip
        hashes.add(read(FerFolder, write_tree(tmp_path / str(number), other))[0].sha256)
    assert len(hashes) == 4


def test_the_hash_is_not_told_before_all_is_read(tmp_path: Path) -> None:
    write_tree(tmp_path, images(PREFIXED))
    source = FerFolder(open_files(tmp_path), Reading())
    next(source.items())
    with pytest.raises(RuntimeError, match="read to its end"):
        _ = source.sha256


@pytest.mark.parametrize(
    "name",
    ["train/angry/Training_1.jpg", "test/sad/PrivateTest_14.png", "Training/3/1.png",
     "angry/publictest_7.JPEG", "privatetest/0/x.png", "train/what/Training_1.jpg"],
)  # fmt: skip
def test_the_forms_of_fer2013_are_recognised(name: str) -> None:
    assert matches(["README.md", name])


@pytest.mark.parametrize(
    "name",
    ["train/angry/im0.png", "training/3/17.png", "train/3/17.png", "train/angry/Training_1.txt",
     "train/angry/Training_x.png", "Training/3/4/5.png", "Testing/3/1.png"],
)  # fmt: skip
def test_other_trees_are_not_taken_for_fer2013(name: str) -> None:
    assert not matches([name])


@given(
    usage=st.sampled_from(list(SPLITS)),
    label=st.integers(0, 6),
    number=st.integers(0, 10**18 - 1),
    flat=st.booleans(),
)
def test_a_name_is_read_back(usage: str, label: int, number: int, flat: bool) -> None:
    folder = "train" if usage == "Training" else "test"
    prefixed = f"{EMOTIONS[label]}/{usage}_{number}.jpg"
    expected = (label, SPLITS[usage], number)
    assert parse_name(prefixed if flat else f"{folder}/{prefixed}") == expected
    assert parse_name(f"{usage}/{label}/{number}.png") == expected


@given(
    st.lists(
        st.text(max_size=12)
        | st.sampled_from(["train", "test", "Training", "angry", "3", "Training_1.png", "9" * 30]),
        min_size=1,
        max_size=4,
    ).map("/".join)
)
def test_any_name_is_read_or_refused_and_nothing_else(name: str) -> None:
    matches([name])
    try:
        found = parse_name(name)
    except ValueError as error:
        assert str(error).isprintable()
    else:
        assert found.label in range(7) and found.split in ("train", "val", "test")
