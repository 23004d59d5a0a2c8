import io
import itertools
import pickle
import random
import struct
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from pattlite_dist.errors import UserError
from pattlite_dist.shards.manifest import ImageInfo
from pattlite_dist.shards.sources import images as module
from pattlite_dist.shards.sources.base import Item, Pixels, Reading
from pattlite_dist.shards.sources.images import EncodedImage, set_image
from tests.shards.sources.conftest import encoded, picture, pixels, refused

GREY = ImageInfo(channels=1, height=48, width=48)
COLOUR = ImageInfo(channels=3, height=48, width=48)


def decode(
    data: bytes, image: ImageInfo = GREY, other: Literal["convert", "refuse"] = "convert"
) -> tuple[Pixels, bool]:
    return EncodedImage(image, other)(Item(0, 0, None, data, "here/1.png"))


def as_png(image: Image.Image, other: ImageInfo = GREY, **options: Any) -> tuple[Pixels, bool]:
    return decode(encoded(image, **options), other)


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "GIF", "WEBP"])
def test_lossless_images_of_the_sets_form_come_as_they_are(form: str) -> None:
    mode = "RGB" if form == "WEBP" else "L"
    image = picture(1, mode)
    options = {"lossless": True} if form == "WEBP" else {}
    info = ImageInfo(channels=3 if mode == "RGB" else 1, height=48, width=48)
    found, converted = decode(encoded(image, form, **options), info, "refuse")
    np.testing.assert_array_equal(found, pixels(image), strict=True)
    assert found.flags.c_contiguous
    assert not converted


def test_a_jpeg_comes_as_pillow_decodes_it() -> None:
    data = encoded(picture(2), "JPEG", quality=95)
    found, converted = decode(data)
    assert abs(found.astype(int) - pixels(picture(2))).mean() < 12
    assert not converted


def test_the_decoder_travels_to_other_processes() -> None:
    decoder = EncodedImage(GREY, "refuse")
    assert pickle.loads(pickle.dumps(decoder)) == decoder


def test_grey_and_colour_become_each_other() -> None:
    colour = picture(3, "RGB")
    found, converted = as_png(colour)
    red, green, blue = pixels(colour).astype(float)
    np.testing.assert_allclose(found[0], 0.299 * red + 0.587 * green + 0.114 * blue, atol=1)
    assert converted
    found, converted = as_png(picture(3), COLOUR)
    np.testing.assert_array_equal(found, np.repeat(pixels(picture(3)), 3, axis=0))
    assert converted


def test_an_opaque_rgba_image_keeps_its_pixels() -> None:
    grey = picture(4)
    opaque = grey.convert("RGBA")
    found, converted = as_png(opaque)
    np.testing.assert_array_equal(found, pixels(grey))
    assert converted


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_what_is_transparent_shows_black(mode: str) -> None:
    image = picture(5).convert(mode)
    image.putalpha(Image.fromarray(np.repeat([[0, 255]], 24, axis=1).astype("u1").repeat(48, 0)))
    found, _ = as_png(image)
    assert not found[:, :, :24].any()
    np.testing.assert_array_equal(found[:, :, 24:], pixels(picture(5))[:, :, 24:])


def test_a_colour_that_is_marked_as_transparent_shows_black() -> None:
    grey = Image.new("L", (48, 48), 200)
    assert not as_png(grey, transparency=200)[0].any()
    palette = Image.new("RGB", (48, 48), (200, 10, 10)).quantize(4)
    found, converted = as_png(palette, COLOUR, transparency=palette.getpixel((0, 0)))
    assert converted and not found.any()


def test_a_palette_is_looked_up() -> None:
    found, converted = as_png(Image.new("RGB", (48, 48), (200, 10, 30)).quantize(4), COLOUR)
    assert found[:, 5, 5].tolist() == [200, 10, 30]
    assert converted


def test_sixteen_bits_are_scaled_to_eight() -> None:
    wide = np.arange(48 * 48, dtype=np.uint16).reshape(48, 48) * 28
    for form in ("PNG", "TIFF"):
        found, converted = decode(encoded(Image.fromarray(wide), form))
        np.testing.assert_array_equal(found[0], np.round(wide / 257))
        assert converted


def test_black_and_white_becomes_grey() -> None:
    image = picture(6).convert("1")
    found, converted = as_png(image)
    np.testing.assert_array_equal(found, pixels(image.convert("L")))
    assert converted


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_exif_says(orientation: int) -> None:
    image = picture(7, size=(48, 30))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, exif=exif)
    turned = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    info = ImageInfo(channels=1, height=turned.height, width=turned.width)
    found, converted = decode(data, info)
    np.testing.assert_array_equal(found, pixels(turned))
    assert converted == (orientation > 1)


def test_a_turned_tiff_is_not_turned_twice() -> None:
    image = picture(7, size=(48, 30))
    exif = Image.Exif()
    exif[0x0112] = 6
    found, _ = decode(encoded(image, "TIFF", exif=exif), ImageInfo(channels=1, height=48, width=30))
    np.testing.assert_array_equal(found, pixels(image.transpose(Image.Transpose.ROTATE_270)))


@pytest.mark.parametrize(
    "exif",
    [
        b"II*\0\xff\xff\xff\xff",
        b"no header",
        b"II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x02\0\0\0x\0\0\0\0\0\0\0",  # the text "x"
    ],
)
def test_broken_exif_data_do_not_matter(exif: bytes) -> None:
    found, converted = as_png(picture(8), exif=b"Exif\0\0" + exif)
    np.testing.assert_array_equal(found, pixels(picture(8)))
    assert not converted


def test_another_size_is_cropped_and_averaged_but_never_stretched() -> None:
    wide = Image.new("L", (200, 100), 50)
    wide.paste(150, (50, 0, 150, 100))  # the square in the middle
    found, converted = as_png(wide)
    assert converted and found.shape == (1, 48, 48)
    assert abs(found.astype(int) - 150).max() < 10  # stretched, it would have 50 at the sides
    lines = Image.fromarray(np.tile(np.uint8([0, 200]), (96, 48)))
    assert np.ptp(as_png(lines)[0][0, 8:40, 8:40]) < 20  # of 200: no moiré


def test_a_set_may_be_no_square() -> None:
    tall = picture(9, size=(30, 60))
    found, converted = as_png(tall, ImageInfo(channels=1, height=60, width=30))
    np.testing.assert_array_equal(found, pixels(tall))
    assert not converted


@pytest.mark.parametrize(
    ("image", "form"),
    [(picture(0, "RGBA"), "RGBA 48x48"), (picture(0, size=(50, 48)), "L 50x48")],
)
def test_other_images_are_refused_if_wanted(image: Image.Image, form: str) -> None:
    refused(lambda: decode(encoded(image), GREY, "refuse"), f"here/1.png: it is {form}", "L 48x48")


def bomb() -> bytes:
    data = bytearray(encoded(0))
    data[16:24] = struct.pack(">LL", 60000, 60000)
    data[29:33] = struct.pack(">L", zlib.crc32(data[12:29]))
    return bytes(data)


def several(form: str) -> bytes:
    return encoded(picture(0), form, save_all=True, append_images=[picture(1)])


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "empty"),
        (b"emotion,pixels\n", "not an image of a known format (PNG"),
        (encoded(0)[:8], "not an image of a known format (PNG"),
        (encoded(0)[:-700], "truncated or damaged"),
        (encoded(0, "JPEG")[:-200], "truncated or damaged"),
        (encoded(0, "BMP")[:-5], "truncated or damaged"),
        (encoded(0, "TIFF")[:100], "here/1.png"),
        (encoded(0, "ICO"), "not an image of a known format (PNG"),
        (encoded(picture(0, "RGB"), "PCX"), "not an image of a known format (PNG"),
        (several("GIF"), "more than one picture"),
        (several("TIFF"), "more than one picture"),
        (several("WEBP"), "more than one picture"),
        (several("PNG"), "more than one picture"),
        (encoded(Image.new("F", (48, 48)), "TIFF"), "32 bits"),
        (bomb(), "more than 67108864 pixels"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image of a known format (PNG"),
    ],
)
def test_what_is_no_sound_image_is_refused(data: bytes, what: str) -> None:
    refused(lambda: decode(data), "here/1.png: ", what)


def test_too_many_pixels_are_refused_before_they_are_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MOST_PIXELS", 48 * 48 - 1)
    refused(lambda: decode(encoded(0)), "more than 2303 pixels")


def test_a_preview_in_a_cameras_jpeg_does_not_matter() -> None:
    data = encoded(picture(0), "MPO", save_all=True, append_images=[picture(1)])
    found, _ = decode(data)
    np.testing.assert_array_equal(found, pixels(Image.open(io.BytesIO(data))))


@given(
    seed=st.integers(0, 2**32),
    form=st.sampled_from(["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP"]),
    flips=st.integers(1, 8),
)
def test_a_damaged_image_is_read_or_refused_and_nothing_else(
    seed: int, form: str, flips: int
) -> None:
    rng = random.Random(seed)
    data = bytearray(encoded(picture(1, size=(12, 12)), form))
    for _ in range(flips):
        data[rng.randrange(len(data))] = rng.randrange(256)
    try:
        found, _ = decode(bytes(data))
    except UserError as error:
        assert str(error).startswith("here/1.png: ") and "\n" not in str(error)
    else:
        assert found.shape == (1, 48, 48) and found.dtype == np.uint8


def test_the_form_of_a_set_is_the_users_then_its_own_then_the_first_images() -> None:
    reads = 0

    def first() -> tuple[bytes, str]:
        nonlocal reads
        reads += 1
        return encoded(picture(0, "RGB", (30, 60))), "first.png"

    for size, channels, own in itertools.product((None, 96), (None, 1, 3), (None, GREY)):
        reads = 0
        found = set_image(Reading(image_size=size, channels=channels), own, first)
        own_shape = (1, 48, 48) if own else (3, 60, 30)
        assert found.channels == (channels or own_shape[0])
        assert (found.height, found.width) == ((size, size) if size else own_shape[1:])
        assert reads == (own is None and (size is None or channels is None))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_the_first_image_is_grey_or_colour(mode: str) -> None:
    data = encoded(picture(0, "RGB").convert(mode))
    info = set_image(Reading(), None, lambda: (data, "first.png"))
    assert info.channels == (1 if mode in ("1", "L", "LA") else 3)


@pytest.mark.parametrize("size", [-1, 0, 4097])
def test_a_size_out_of_range_is_refused(size: int) -> None:
    refused(lambda: set_image(Reading(image_size=size), GREY, lambda: (b"", "")), f"{size}")


def test_a_first_image_too_large_for_a_set_is_refused() -> None:
    data = encoded(Image.new("L", (4097, 1)))
    refused(lambda: set_image(Reading(), None, lambda: (data, "1.png")), "1.png", "--image-size")
    assert set_image(Reading(image_size=48), None, lambda: (data, "1.png")) == GREY


def test_a_damaged_first_image_is_refused(tmp_path: Path) -> None:
    refused(lambda: set_image(Reading(), None, lambda: (b"?", "1.png")), "1.png", "not an image")
