from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pattlite_dist.shards.sources.ckplus import CKPLUS_LABELS, CkPlus, matches, parse_name
from tests.shards.sources.conftest import check_packings, images, read, refused, write_tree

NAMES = [
    "anger/S010_004_00000017.png",
    "anger/S010_004_00000018.png",
    "contempt/S138_008_00000007.png",
    "disgust/S005_001_00000010.png",
    "fear/S011_003_00000012.png",
    "happy/S010_006_00000013.png",
    "sadness/S014_002_00000015.png",
    "surprise/S010_002_00000014.png",
]


def test_a_person_is_one_group_and_contempt_a_class(tmp_path: Path) -> None:
    items = check_packings(CkPlus, tmp_path, images(NAMES))
    assert [item.label for item in items] == [0, 0, 1, 2, 3, 4, 5, 6]
    subjects = ["S010", "S010", "S138", "S005", "S011", "S010", "S014", "S010"]
    assert [item.group for item in items] == subjects
    assert [item.facts for item in items] == [
        {"file": name, "subject": subject} for name, subject in zip(NAMES, subjects, strict=True)
    ]
    assert {item.split for item in items} == {None}
    source, _ = read(CkPlus, tmp_path / "tree")
    assert source.cut == ("val", "test")
    assert source.labels == (
        "angry", "contempt", "disgust", "fear", "happy", "sad", "surprise",
    )  # fmt: skip
    assert source.image.shape == (1, 48, 48)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("neutral/S010_004_00000017.png", "'neutral' is not one of angry"),
        ("other/S010_004_00000017.png", "'other' is not one of angry"),
        ("anger/face.png", "SUBJECT_SESSION_FRAME"),
        ("anger/S10_004_00000017.png", "SUBJECT_SESSION_FRAME"),
        ("S010_004_00000017.png", "top-level class folder"),
        ("train/anger/S010_004_00000017.png", "top-level class folder"),
    ],
)
def test_an_image_of_another_form_is_refused(tmp_path: Path, name: str, what: str) -> None:
    write_tree(tmp_path, images([*NAMES, name]))
    refused(lambda: read(CkPlus, tmp_path), str(tmp_path / name), what, "--source folder")


def test_a_tree_without_images_is_refused(tmp_path: Path) -> None:
    refused(lambda: read(CkPlus, tmp_path), str(tmp_path), "no labelled images")


def test_it_is_recognised_by_its_file_names() -> None:
    assert matches(NAMES) and matches([*NAMES, "anger/other.png", "README"])
    assert not matches(["anger/1.png"]) and not matches(["anger/S010_004_00000017.txt"])
    assert not matches(["S010_004_00000017.png"]) and not matches([])


@given(
    label=st.integers(0, 6),
    subject=st.integers(0, 999),
    session=st.integers(0, 999),
    frame=st.integers(0, 10**8 - 1),
)
def test_a_name_is_read_back(label: int, subject: int, session: int, frame: int) -> None:
    name = f"{CKPLUS_LABELS[label]}/S{subject:03d}_{session:03d}_{frame:08d}.png"
    assert matches([name])
    assert parse_name(name) == (label, f"S{subject:03d}")


@given(st.text("S0123_/anger.png\n"))
def test_any_name_is_read_or_refused_and_nothing_else(name: str) -> None:
    try:
        label, subject = parse_name(name)
    except ValueError as error:
        assert str(error).isprintable()
    else:
        assert label in range(7) and len(subject) == 4
