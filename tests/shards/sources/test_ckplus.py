from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pattlite_dist.shards.sources.base import EMOTIONS, Reading
from pattlite_dist.shards.sources.ckplus import (
    CKPLUS_LABELS,
    CkPlus,
    csv_names,
    matches,
    parse_name,
)
from pattlite_dist.shards.sources.registry import open_source
from tests.shards.conftest import face, write_csv
from tests.shards.sources.conftest import (
    check_packings,
    images,
    read,
    refused,
    write_tree,
    write_zip,
)

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


def ck_csv(path: Path) -> Path:
    usages = ["Training", "PublicTest", "PrivateTest"]
    return write_csv(path, [face(label, usages[label % 3], label) for label in range(8)])


@pytest.mark.parametrize("name", ["ckextended.csv", "CK+.csv.gz", "ckplus.csv.xz"])
def test_a_csv_named_like_ck_has_contempt_as_its_eighth_label(tmp_path: Path, name: str) -> None:
    path = ck_csv(tmp_path / name.lower()).rename(tmp_path / name)
    for where in (path, tmp_path):
        source = open_source(where)
        assert source.kind == "ck+csv"
        assert source.labels == (*EMOTIONS, "contempt")
        assert [item.label for item in source.items()] == list(range(8))
        assert "read as CK+ with the labels 0 to 7" in source.notes[0]  # type: ignore[attr-defined]


def test_it_is_known_inside_a_zip(tmp_path: Path) -> None:
    data = ck_csv(tmp_path / "ckextended.csv").read_bytes()
    assert open_source(write_zip(tmp_path / "a.zip", {"a/ckextended.csv": data})).kind == "ck+csv"


def test_a_csv_of_another_name_can_be_read_as_ck(tmp_path: Path) -> None:
    path = ck_csv(tmp_path / "faces.csv")
    message = refused(lambda: list(open_source(path).items()), "label '7' is not from 0 to 6, FER")
    assert "--source ck+csv" in message and "truncated" not in message
    for where in (path, tmp_path):
        source = open_source(where, Reading(kind="ck+csv"))
        assert len(list(source.items())) == 8 and source.kind == "ck+csv"


def test_a_csv_of_ck_without_usage_stays_one(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "ckextended.csv", [face(7), face(0)], ("emotion", "pixels"))
    source = open_source(path)
    assert [item.split for item in source.items()] == [None, None]
    assert source.kind == "ck+csv"


@pytest.mark.parametrize("name", ["checked.csv", "ckle.csv", "back.csv", "ck.npz", "fer2013.csv"])
def test_other_names_are_not_cks(name: str) -> None:
    assert csv_names([name, f"a/{name}"]) == []


def test_labels_beyond_contempt_and_two_files_are_refused(tmp_path: Path) -> None:
    write_csv(tmp_path / "ck_1.csv", [face(8)])
    refused(lambda: list(open_source(tmp_path).items()), "label '8' is not from 0 to 7, CK+'s")
    ck_csv(tmp_path / "ck_2.csv")
    refused(lambda: open_source(tmp_path), "contains 2 CSV files of CK+")
