from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pattlite_dist.shards.sources.base import Reading
from pattlite_dist.shards.sources.expw import ExpW, matches, parse_line
from pattlite_dist.shards.sources.files import Files
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

LINE = "angry_actor_104.jpg 0 5 10 40 35 22.9362 {}"


def content(*lines: str) -> dict[str, bytes]:
    """Two photographs of 60x50 pixels and a list of the faces in them."""
    names = ("angry_actor_104.jpg", "two faces.jpg")
    photographs = {
        f"image/origin/{n}": encoded(picture(i, "RGB", (60, 50))) for i, n in enumerate(names)
    }
    return {"label/label.lst": "\n".join(lines).encode(), **photographs}


FACES = (LINE.format(0), "two faces.jpg 0 0 0 30 50 9.1 3", "two faces.jpg 1 0 30 60 50 9.1 6", "")


def test_faces_are_cut_from_their_photographs(tmp_path: Path) -> None:
    path = write_tree(tmp_path, content(*FACES))
    refused(lambda: open_source(path), "many sizes", "--image-size 100")
    source, items = read(ExpW, path, image_size=30)
    assert [source.labels[item.label] for item in items] == ["angry", "happy", "neutral"]
    assert (source.kind, source.name, source.cut) == ("expw", "ExpW", ("val", "test"))
    assert items[0].facts == {
        "file": "image/origin/angry_actor_104.jpg", "box": [10, 5, 40, 35],
    }  # fmt: skip
    face = picture(0, "RGB", (60, 50)).crop((10, 5, 40, 35))
    found, converted = source.decode(items[0])
    assert not converted and np.array_equal(found, pixels(face))


def test_faces_in_one_photograph_stay_together(tmp_path: Path) -> None:
    _, items = read(ExpW, write_tree(tmp_path, content(*FACES)), image_size=30)
    assert items[0].group != items[1].group == items[2].group


def test_a_list_line_is_image_box_and_label() -> None:
    assert parse_line(LINE.format(6)) == ("angry_actor_104.jpg", (10, 5, 40, 35), 6)
    for line in ("", "a.jpg 0 1 2 3 4 5.0", LINE.format("x"), "a.jpg 0 1 2 3 4 5.0 1 1 1 x"):
        with pytest.raises(ValueError, match="not an image, a box and a label"):
            parse_line(line)
    with pytest.raises(ValueError, match="the label 7 is not from 0 to 6"):
        parse_line(LINE.format(7))


@pytest.mark.parametrize("line", ["nothing", "gone.jpg 0 1 2 3 4 5.0 1"])
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    path = write_tree(tmp_path, content(*FACES[:2], line))
    refused(lambda: read(ExpW, path, image_size=30), "label.lst, line 3")


def test_zips_and_folders_are_read_alike(tmp_path: Path) -> None:
    def sized(files: Files, reading: Reading) -> ExpW:
        return ExpW(files, replace(reading, image_size=30))

    check_packings(sized, tmp_path, content(*FACES))


def test_what_matches_has_the_list() -> None:
    assert matches(["label/label.lst"]) and matches(["label.lst"]) and not matches(["x.lst"])
