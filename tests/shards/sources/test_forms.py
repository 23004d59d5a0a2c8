from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pattlite_dist.shards.sources.base import Reading
from pattlite_dist.shards.sources.files import open_files
from pattlite_dist.shards.sources.forms import Form, commonest, examine, form_of, form_of_most
from pattlite_dist.shards.sources.images import open_image
from pattlite_dist.shards.sources.trees import Tree
from tests.shards.sources.conftest import encoded, picture, read, write_tree


@pytest.mark.parametrize(
    ("form", "modes"),
    [("PNG", "1 L RGB LA P RGBA I;16"), ("JPEG", "L RGB CMYK"), ("BMP", "1 L RGB P"),
     ("WEBP", "RGB RGBA"), ("GIF", "L P RGB"), ("TIFF", "1 L RGB LA P RGBA I;16 CMYK"),
     ("PPM", "1 L RGB")],
)  # fmt: skip
def test_a_header_tells_the_form_that_decoding_gives(form: str, modes: str) -> None:
    for mode in modes.split():
        image = picture(1, "RGB", (30, 20)).convert("L" if mode == "I;16" else mode)
        image = image.convert("I").convert("I;16") if mode == "I;16" else image
        data = encoded(image, form)
        decoded, _ = open_image(data, "1.png")
        assert form_of(data) == Form(1 if decoded.mode == "L" else 3, *decoded.size), mode


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_form_is_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture(1, size=(30, 20)), "JPEG", exif=exif)
    assert form_of(data) == Form(1, *((20, 30) if orientation > 4 else (30, 20)))


@pytest.mark.parametrize("data", [b"", b"text", encoded(1)[:20], b"\xff\xd8\xff\xe0" + b"\0" * 99])
def test_what_is_no_image_has_no_form(data: bytes) -> None:
    assert form_of(data) is None


def test_a_long_header_is_read_all_the_same(tmp_path: Path) -> None:
    profile = bytes(200_000)
    write_tree(tmp_path, {"a/1.jpg": encoded(picture(1), "JPEG", icc_profile=profile)})
    assert len((tmp_path / "a" / "1.jpg").read_bytes()) > 200_000
    assert examine(open_files(tmp_path), ["a/1.jpg"]) == [Form(1, 48, 48)]


def test_one_odd_image_decides_nothing() -> None:
    photographs = [Form(3, 160 + 13 * i % 80, 160 + 13 * i % 80) for i in range(84)]
    found = commonest([Form(1, 24, 24), *photographs])
    assert found.channels == 3 and 160 <= found.width < 240
    assert commonest([Form(1, 24, 24), *[Form(3, 96, 90)] * 2]) == Form(3, 96, 90)
    assert commonest([Form(3, 10, 10), Form(1, 48, 48), Form(3, 10, 10), Form(1, 48, 48)])[0] == 3


@given(st.lists(st.builds(Form, st.sampled_from([1, 3]), st.integers(1, 4), st.integers(1, 4)),
                min_size=1))  # fmt: skip
def test_the_commonest_form_is_one_of_the_commonest_mode(forms: list[Form]) -> None:
    found = commonest(forms)
    mine = [form for form in forms if form.channels == found.channels]
    assert 2 * len(mine) >= len(forms)
    assert mine.count(found) == max(map(mine.count, mine))
    assert commonest(forms) == found


def test_a_large_set_is_examined_at_equal_distances(tmp_path: Path) -> None:
    sizes = {f"a/{i:02d}.png": 8 if i % 10 == 0 else 9 for i in range(40)}
    content = {name: encoded(picture(1, size=(side, side))) for name, side in sizes.items()}
    files = open_files(write_tree(tmp_path, content))
    assert examine(files, files.names, 4) == [Form(1, 8, 8)] * 4
    assert len(examine(files, files.names)) == 40
    (tmp_path / "a" / "10.png").write_bytes(b"damaged")
    (tmp_path / "a" / "20.png").unlink()
    assert len(examine(files, files.names, 4)) == 2


def test_it_is_said_how_many_have_the_form_that_is_taken(tmp_path: Path) -> None:
    content = {f"{i}.png": encoded(picture(i, "RGB", (9, 9 if i else 8))) for i in range(5)}
    files = open_files(write_tree(tmp_path, content))
    info, said = form_of_most(files, files.names, Reading())
    assert info is not None and info.shape == (3, 9, 9)
    assert "the set takes the commonest, 9x9 colour, of 4 among 5; others are converted" in said
    assert "commonest, 9x9, of 4" in form_of_most(files, files.names, Reading(channels=1))[1]
    assert form_of_most(files, files.names, Reading(image_size=9)) == (info, "")
    assert form_of_most(files, files.names[1:], Reading()) == (info, "")
    assert form_of_most(files, [], Reading()) == (None, "")


def test_no_image_is_examined_if_the_user_says_the_form(tmp_path: Path) -> None:
    content = {"a/1.png": encoded(picture(1, size=(8, 8))), "b/2.png": encoded(picture(1))}
    source, _ = read(Tree, write_tree(tmp_path, content), image_size=20, channels=3)
    assert source.image.shape == (3, 20, 20)
    assert source.notes == []  # type: ignore[attr-defined]
    source, _ = read(Tree, tmp_path, channels=3)
    assert source.image.channels == 3
