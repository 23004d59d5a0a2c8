from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pattlite_dist.errors import UserError
from pattlite_dist.shards.sources.base import EMOTIONS
from pattlite_dist.shards.sources.rafdb import (
    LABEL_LIST,
    LABEL_LISTS,
    RafDb,
    RafDbFolders,
    matches,
    parse_list,
)
from pattlite_dist.shards.sources.registry import open_source
from tests.shards.sources.conftest import (
    check_packings,
    encoded,
    picture,
    pixels,
    read,
    refused,
    write_tree,
)

LINES = [
    "train_00001.jpg 5", "train_00002.jpg 1", "train_00003.jpg 7", "train_00004.jpg 2",
    "test_0002.jpg 3", "test_0001.jpg 4", "test_0003.jpg 6",
]  # fmt: skip
LABELS = ["sad", "surprise", "neutral", "fear", "disgust", "happy", "angry"]


def raf_tree(lines: list[str] | None = None, end: str = "\n") -> dict[str, bytes]:
    """RAF-DB's files for a list, with the seven images of `LINES`."""
    content = {LABEL_LIST: "".join(f"{line}{end}" for line in lines or LINES).encode()}
    for seed, line in enumerate(LINES):
        name = f"Image/aligned/{line.split('.')[0]}_aligned.jpg"
        content[name] = encoded(picture(seed, "RGB", (100, 100)), "JPEG", quality=95)
    return content


def test_labels_and_splits_are_those_of_the_list(tmp_path: Path) -> None:
    items = check_packings(RafDb, tmp_path, raf_tree())
    assert [EMOTIONS[item.label] for item in items] == LABELS
    assert [item.split for item in items] == [None] * 4 + ["test"] * 3
    assert items[4].facts == {"file": "Image/aligned/test_0002_aligned.jpg"}
    source, _ = read(RafDb, tmp_path / "tree")
    assert source.labels == EMOTIONS and source.cut == ("val",)
    assert source.image.shape == (3, 100, 100)
    found, converted = source.decode(items[1])
    assert abs(found.astype(int) - pixels(picture(1, "RGB", (100, 100)))).mean() < 50
    assert not converted


def test_the_user_may_want_grey_images(tmp_path: Path) -> None:
    source, items = read(RafDb, write_tree(tmp_path, raf_tree()), image_size=48, channels=1)
    found, converted = source.decode(items[0])
    assert found.shape == (1, 48, 48) and found.dtype == np.uint8 and converted


def test_windows_line_ends_and_blank_lines_do_not_matter(tmp_path: Path) -> None:
    lines = ["", *LINES, "  ", ""]
    _, items = read(RafDb, write_tree(tmp_path, raf_tree(lines, " \r\n")))
    assert [EMOTIONS[item.label] for item in items] == LABELS


def test_it_may_lie_beside_the_compound_emotions(tmp_path: Path) -> None:
    content = {f"basic/{name}": data for name, data in raf_tree().items()}
    content |= {f"compound/{name}": data for name, data in raf_tree(["bad"]).items()}
    items = check_packings(RafDb, tmp_path, content)
    assert [EMOTIONS[item.label] for item in items] == LABELS


def test_the_hash_tells_the_labels(tmp_path: Path) -> None:
    first, _ = read(RafDb, write_tree(tmp_path, raf_tree()))
    second, _ = read(RafDb, write_tree(tmp_path, raf_tree(["train_00001.jpg 4", *LINES[1:]])))
    assert first.sha256 != second.sha256


def test_images_that_the_list_does_not_name_are_left_out(tmp_path: Path) -> None:
    content = raf_tree(LINES[:-1]) | {"Image/original/train_00001.jpg": b"", "README": b""}
    source, items = read(RafDb, write_tree(tmp_path, content))
    assert len(items) == 6
    assert source.left_out == {"not in the list": 1}


def test_without_test_images_a_test_split_is_cut(tmp_path: Path) -> None:
    source, _ = read(RafDb, write_tree(tmp_path, raf_tree(LINES[:4])))
    assert source.cut == ("val", "test")


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("train_00001.jpg", "'train_00001.jpg' is not of the form"),
        ("train_00001.jpg 5 6", "is not of the form"),
        ("train_00001.png 5", "is not of the form"),
        ("valid_00001.jpg 5", "is not of the form"),
        ("../train_00001.jpg 5", "is not of the form"),
        ("train_00001.jpg 0", "label '0' is not from 1 to 7"),
        ("train_00001.jpg 8", "label '8' is not from 1 to 7"),
        ("train_00001.jpg 12", "label '12' is not from 1 to 7"),
        ("train_00001.jpg -1", "label '-1' is not from 1 to 7"),
        ("train_00001.jpg happy", "label 'happy' is not from 1 to 7"),
        ("train_00001.jpg \u0665", "is not from 1 to 7"),
        ("train_00001.jpg " + "5" * 9000, "is not from 1 to 7"),
        ("train_00002.jpg 5", "line 2 also names train_00002.jpg"),
        ("train_00009.jpg 5", "there is no Image/aligned/train_00009_aligned.jpg"),
        ("x" * 9000, "is not of the form"),
        ("\x00\x07", "is not of the form"),
    ],
)
def test_a_bad_line_is_refused_by_its_number(tmp_path: Path, line: str, what: str) -> None:
    write_tree(tmp_path, raf_tree([*LINES[:2], line, *LINES[2:]]))
    message = refused(lambda: read(RafDb, tmp_path), f"{LABEL_LIST}, line 3: ", what)
    assert len(message) < 400


@pytest.mark.parametrize(
    ("data", "what"), [(b"", "empty"), (b"\n \n", "empty"), (b"\xff\xfe\x00", "not text"),
                       (b"test_0001.jpg 4\n", "no train images")],
)  # fmt: skip
def test_a_list_of_another_form_is_refused(tmp_path: Path, data: bytes, what: str) -> None:
    write_tree(tmp_path, raf_tree() | {LABEL_LIST: data})
    refused(lambda: read(RafDb, tmp_path), LABEL_LIST, what)


def test_a_missing_list_is_refused(tmp_path: Path) -> None:
    content = raf_tree()
    del content[LABEL_LIST]
    write_tree(tmp_path, content)
    refused(lambda: read(RafDb, tmp_path), str(tmp_path), LABEL_LIST)


def test_images_that_are_still_packed_are_told(tmp_path: Path) -> None:
    content = {LABEL_LIST: raf_tree()[LABEL_LIST], "Image/aligned.zip": b""}
    write_tree(tmp_path, content)
    refused(lambda: read(RafDb, tmp_path), "line 1", "unpack Image/aligned.zip")


def test_it_is_recognised_by_its_list() -> None:
    assert matches([LABEL_LIST]) and matches([f"basic/{LABEL_LIST}", "compound/x"])
    assert not matches(["list_patition_label.txt", "Image/aligned/train_00001_aligned.jpg"])


@given(
    st.lists(
        st.tuples(st.sampled_from(["train", "test"]), st.integers(0, 10**6), st.integers(1, 7)),
        min_size=1,
        unique_by=lambda entry: entry[:2],
    ),
    st.sampled_from([" ", "\t", "   "]),
)
def test_a_list_is_read_back(entries: list[tuple[str, int, int]], blank: str) -> None:
    text = "\n".join(f"{split}_{number}.jpg{blank}{label}" for split, number, label in entries)
    order = ["surprise", "fear", "disgust", "happy", "sad", "angry", "neutral"]
    assert parse_list(text.encode(), "list") == [
        (line, f"{split}_{number}", EMOTIONS.index(order[label - 1]), split)
        for line, (split, number, label) in enumerate(entries, start=1)
    ]


@given(st.binary() | st.text("train_est01.jpg 5\n\r").map(str.encode))
def test_any_list_is_read_or_refused_and_nothing_else(data: bytes) -> None:
    try:
        entries = parse_list(data, "list")
    except UserError as error:
        assert str(error).startswith("list") and str(error).isprintable()
    else:
        assert entries and all(entry.label in range(7) for entry in entries)


@pytest.mark.parametrize("name", LABEL_LISTS)
def test_the_list_may_be_spelt_right(tmp_path: Path, name: str) -> None:
    content = raf_tree()
    content[name] = content.pop(LABEL_LIST)
    write_tree(tmp_path, content)
    source = open_source(tmp_path)
    assert source.kind == "raf-db"
    assert [EMOTIONS[item.label] for item in source.items()] == LABELS


def kaggle(root: str = "DATASET/") -> dict[str, bytes]:
    """The same faces as on Kaggle: by split and number."""
    content = {}
    for seed, line in enumerate(LINES):
        name, label = line.replace(".jpg", "").split()
        path = f"{root}{name.split('_')[0]}/{label}/{name}_aligned.jpg"
        content[path] = encoded(picture(seed, "RGB", (100, 100)), "JPEG")
    return content


def tables(lines: list[str] = LINES) -> dict[str, bytes]:
    rows: dict[str, list[str]] = {"train": [], "test": []}
    for line in lines:
        name, label = line.replace(".jpg", "_aligned.jpg").split()
        rows[name.split("_")[0]].append(f"{name},{label}")
    return {
        f"{split}_labels.csv": "\n".join(["image,label", *found, ""]).encode()
        for split, found in rows.items()
    }


@pytest.mark.parametrize("content", [kaggle(), kaggle("") | tables(), kaggle() | tables()])
def test_faces_in_folders_by_number_get_their_emotions(
    tmp_path: Path, content: dict[str, bytes]
) -> None:
    items = check_packings(RafDbFolders, tmp_path, content)
    found = {str((item.facts or {})["file"]).split("/")[-1][:-12]: item for item in items}
    for line, label in zip(LINES, LABELS, strict=True):
        item = found[line.split(".")[0]]
        assert EMOTIONS[item.label] == label
        assert item.split == (None if line.startswith("train") else "test")
    source = open_source(tmp_path / "tree")
    assert (source.kind, source.labels, source.cut) == ("raf-db", EMOTIONS, ("val",))
    (note,) = source.notes  # type: ignore[attr-defined]
    assert "folders 1 to 7 read as RAF-DB's surprise, fear, disgust, happy" in note
    assert ("test_labels.csv and train_labels.csv say too" in note) == (
        "train_labels.csv" in content
    )


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        (["train_00001.jpg 4", *LINES[1:]], "train_labels.csv, line 2: it gives train_00001_align"),
        ([*LINES, "test_0009.jpg 4"], "test_0009_aligned.jpg the label 4, but that is not there"),
        ([*LINES[:-1], "test_0003.jpg 99"], "the label 99, but that is in the folder 6"),
    ],
)
def test_a_table_that_contradicts_the_folders_is_refused(
    tmp_path: Path, lines: list[str], what: str
) -> None:
    write_tree(tmp_path, kaggle() | tables(lines))
    refused(lambda: read(RafDbFolders, tmp_path), what, "or remove the table")


def test_a_table_without_labels_says_nothing(tmp_path: Path) -> None:
    write_tree(tmp_path, kaggle() | {"train_labels.csv": b"image,label\nonly one field\n\n"})
    assert len(read(RafDbFolders, tmp_path)[1]) == len(LINES)


@pytest.mark.parametrize(
    "name", ["train/1/test_0009_aligned.jpg", "train/8/train_9.jpg", "x/1.jpg"]
)
def test_a_face_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    write_tree(tmp_path, kaggle("") | {name: encoded(1, "JPEG")})
    refused(lambda: open_source(tmp_path), name, "--source folder")


def test_folders_without_train_or_without_test(tmp_path: Path) -> None:
    train = {name: data for name, data in kaggle("").items() if name.startswith("train")}
    assert open_source(write_tree(tmp_path / "a", train)).cut == ("val", "test")
    test = {name: data for name, data in kaggle("").items() if name.startswith("test")}
    write_tree(tmp_path / "b", test)
    refused(lambda: open_source(tmp_path / "b"), "no train images")
