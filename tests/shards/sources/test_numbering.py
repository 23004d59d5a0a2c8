from pathlib import Path

import pytest

from pattlite_dist.shards.sources.base import EMOTIONS, Item, Reading, Source
from pattlite_dist.shards.sources.rafdb import RAFDB_LABELS
from pattlite_dist.shards.sources.registry import open_source
from tests.shards.sources.conftest import encoded, picture, refused, write_tree


def numbered(counts: dict[str, int], size: int = 48, mode: str = "L") -> dict[str, bytes]:
    """Images named by nothing but a number, in train and test."""
    return {
        f"{split}/{folder}/{i}.png": encoded(picture(i, mode, (size, size)))
        for split in ("train", "test")
        for folder, count in counts.items()
        for i in range(count)
    }


FER = {str(number): 1 if number == 1 else 2 for number in range(7)}


def classes(source: Source) -> dict[str, str]:
    """The class of each numbered folder."""
    items: list[Item] = list(source.items())
    return {
        str((item.facts or {})["file"]).split("/")[-2]: source.labels[item.label] for item in items
    }


def test_small_grey_faces_in_folders_0_to_6_are_fer2013s(tmp_path: Path) -> None:
    source = open_source(write_tree(tmp_path, numbered(FER)))
    assert source.kind == "fer2013-folder"
    assert classes(source) == {str(number): name for number, name in enumerate(EMOTIONS)}
    (note,) = source.notes  # type: ignore[attr-defined]
    assert "read as FER2013's, for their images are 48x48 and grey" in note
    assert "0 angry, 1 disgust, 2 fear, 3 happy, 4 sad, 5 surprise, 6 neutral" in note


@pytest.mark.parametrize(
    "content",
    [
        numbered(FER, 50),
        numbered(FER, mode="RGB"),
        numbered(FER | {"1": 3}),  # where disgust would be the commonest
        numbered(FER | {"3": 9, "2": 1}),  # as RAF-DB counted from 0
        numbered(FER | {"7": 2}),
        numbered({folder: 1 for folder in FER if folder != "4"}),
        numbered({str(number): 1 for number in range(1, 8)}, 100, "RGB"),  # RAF-DB's, by no name
    ],
)
def test_other_numbers_need_the_user_to_say_what_they_mean(
    tmp_path: Path, content: dict[str, bytes]
) -> None:
    write_tree(tmp_path, content)
    refused(lambda: open_source(tmp_path), str(tmp_path), "nothing tells what they mean")
    assert open_source(tmp_path, Reading(kind="folder")).labels[0] in ("0", "1")


@pytest.mark.parametrize(
    ("kind", "first", "names"), [("fer2013-folder", 0, EMOTIONS), ("raf-db", 1, RAFDB_LABELS)]
)
def test_the_user_may_say_whose_numbers_they_are(
    tmp_path: Path, kind: str, first: int, names: tuple[str, ...]
) -> None:
    meanings = {str(number): name for number, name in enumerate(names, start=first)}
    write_tree(tmp_path, numbered(dict.fromkeys(meanings, 1), 60, "RGB"))
    source = open_source(tmp_path, Reading(kind=kind))
    assert source.kind == kind and source.labels == EMOTIONS and source.cut == ("val",)
    assert classes(source) == meanings
    assert source.image.shape == (3, 60, 60)
    write_tree(tmp_path, {"train/9/1.png": encoded(1)})
    refused(lambda: open_source(tmp_path, Reading(kind=kind)), "folder '9' is not one of " + kind)
