import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pattlite_dist.shards.sources.content import HEAD, shows_image
from pattlite_dist.shards.sources.files import open_files
from pattlite_dist.shards.sources.registry import open_source
from pattlite_dist.shards.sources.trees import Tree
from tests.shards.sources.conftest import (
    check_packings,
    encoded,
    picture,
    read,
    refused,
    write_tree,
    write_zip,
)


@pytest.mark.parametrize(
    ("form", "modes"),
    [("PNG", "1 L RGB RGBA"), ("JPEG", "L RGB CMYK"), ("MPO", "L RGB"), ("BMP", "1 L RGB"),
     ("WEBP", "RGB RGBA"), ("GIF", "1 L RGB"), ("TIFF", "1 L RGB CMYK"), ("PPM", "1 L RGB"),
     ("JPEG2000", "L RGB")],
)  # fmt: skip
def test_images_are_told_by_their_first_bytes(form: str, modes: str) -> None:
    for mode in modes.split():
        assert shows_image(encoded(picture(1, "RGB").convert(mode), form)[:HEAD])


@pytest.mark.parametrize("head", [b"\0\0\0\x18ftypheic", b"\0\0\0\x20ftypavif", b"P2\n# x\n2 2"])
def test_images_that_pillow_may_not_read_are_images(head: bytes) -> None:
    assert shows_image(head)


@pytest.mark.parametrize(
    "head",
    [b"", b"BM", b"BMW is a car, and no image of the face", b"P5", b"P5 is good", b"RIFF", b"GIF",
     b"RIFF\0\0\0\0AVI ", b"{}", b"image,label\n", b"\x1f\x8b\x08", b"PK\x03\x04", b"II*x",
     b"\0\0\0\x20ftypmp42"],
)  # fmt: skip
def test_other_files_are_no_images(head: bytes) -> None:
    assert not shows_image(head)


@given(st.binary(max_size=40))
def test_any_bytes_are_looked_at(head: bytes) -> None:
    assert bool(shows_image(head)) in (True, False)


def test_a_tree_of_images_without_known_suffixes_is_read(tmp_path: Path) -> None:
    content = {
        "happy/1": encoded(1, "JPEG"),
        "happy/2.image": encoded(2),
        "sad/3.jpg~": encoded(3, "JPEG"),
        "sad/4.dat": encoded(4, "PPM"),
        "sad/notes.dat": b"not an image",
        "sad/5.json": encoded(5),  # such are never opened, for there may be one for each image
    }
    items = check_packings(Tree, tmp_path, content)
    assert [item.facts and item.facts["file"] for item in items] == [*content][:4]
    source = open_source(tmp_path / "tree")
    assert source.kind == "folder" and source.left_out == {"not an image": 2}
    assert all(source.decode(item)[0].shape == (1, 48, 48) for item in items)


def test_an_image_of_an_unknown_kind_is_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    heic = b"\0\0\0\x18ftypheic" + bytes(99)
    content = {"happy/1.png": encoded(1), "sad/2.heic": heic, "sad/3.png": encoded(3)}
    source, items = read(Tree, write_tree(tmp_path, content))
    refused(lambda: source.decode(items[1]), "2.heic", "not an image of a known format")


def test_a_file_that_cannot_be_looked_at_is_no_image(tmp_path: Path) -> None:
    (write_tree(tmp_path, {"a/1.png": encoded(1)}) / "a" / "gone").symlink_to("nowhere")
    assert open_files(tmp_path).images == ("a/1.png",)
    assert open_files(tmp_path).others == ("a/gone",)


def test_folders_without_files_are_known_in_a_folder_and_a_zip(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "set", {"top/a/1.png": encoded(1), "top/b/deep/2.png": encoded(2)})
    for folder in ("c", "b/none/within", ".git/x"):
        (tree / "top" / folder).mkdir(parents=True)
    assert open_files(tree).empty == ("b/none", "b/none/within", "c")
    path = write_zip(tmp_path / "set.zip", {"top/a/1.png": encoded(1)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("top/c/", b"")
        archive.writestr("top/a/", b"")
    assert open_files(path).empty == ("c",)


def test_netpbm_images_of_every_depth_are_decoded(tmp_path: Path) -> None:
    content = {"a/1.pbm": encoded(picture(1).convert("1"), "PPM"), "b/2.pgm": encoded(2, "PPM"),
               "b/3.ppm": encoded(picture(3, "RGB"), "PPM"),
               "b/4.pgm": b"P5 2 1 65535\n" + bytes([255, 255, 128, 0])}  # fmt: skip
    source, items = read(Tree, write_tree(tmp_path, content), channels=1, image_size=48)
    for item in items[:3]:
        assert source.decode(item)[0].shape == (1, 48, 48)
    wide = read(Tree, tmp_path, channels=1, image_size=1)[0].decode(items[3])[0]
    assert 128 <= wide[0, 0, 0] <= 255
