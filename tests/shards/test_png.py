import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from pattlite_dist.shards.manifest import ImageInfo
from pattlite_dist.shards.png import decode_png, encode_pngs

SHAPES = st.tuples(
    st.integers(1, 3), st.sampled_from([1, 3]), st.integers(1, 12), st.integers(1, 12)
)


def info(images: np.ndarray) -> ImageInfo:
    return ImageInfo(channels=images.shape[1], height=images.shape[2], width=images.shape[3])


@given(SHAPES.flatmap(lambda shape: arrays(np.uint8, shape)))
def test_pillow_reads_what_is_written(images: np.ndarray) -> None:
    for png, image in zip(encode_pngs(images), images, strict=True):
        with Image.open(io.BytesIO(png)) as picture:
            picture.verify()
        with Image.open(io.BytesIO(png)) as picture:
            assert (picture.format, picture.mode) == ("PNG", "L" if len(image) == 1 else "RGB")
            pixels = np.asarray(picture)
        found = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        np.testing.assert_array_equal(found, image, strict=True)


@given(SHAPES.flatmap(lambda shape: arrays(np.uint8, shape)))
def test_what_is_written_is_read(images: np.ndarray) -> None:
    for png, image in zip(encode_pngs(images), images, strict=True):
        np.testing.assert_array_equal(decode_png(png, info(images)), image, strict=True)
        np.testing.assert_array_equal(decode_png(memoryview(png), info(images)), image)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_what_pillow_writes_is_read(mode: str) -> None:
    shape = (48, 48) if mode == "L" else (48, 48, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    image = pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)
    found = decode_png(stream.getvalue(), info(image[None]))
    np.testing.assert_array_equal(found, image, strict=True)


def test_another_size_or_mode_than_the_sets_is_refused() -> None:
    (png,) = encode_pngs(np.zeros((1, 1, 48, 48), np.uint8))
    for other in (
        ImageInfo(channels=3, height=48, width=48),
        ImageInfo(channels=1, height=47, width=48),
    ):
        with pytest.raises(ValueError, match=r"an image is L of 48x48, but must be "):
            decode_png(png, other)


@pytest.mark.parametrize("length", [0, 8, 33, 60, 1000])
def test_a_cut_off_file_is_refused(length: int) -> None:
    image = np.random.default_rng(1).integers(0, 256, (1, 1, 48, 48), dtype=np.uint8)
    (png,) = encode_pngs(image)
    with pytest.raises(ValueError, match="damaged"):
        decode_png(png[:length], info(image))


def test_a_byte_changed_anywhere_never_gives_other_pixels_in_silence() -> None:
    image = np.random.default_rng(1).integers(0, 256, (1, 1, 6, 6), dtype=np.uint8)
    (png,) = encode_pngs(image)
    for place in range(len(png)):
        damaged = bytearray(png)
        damaged[place] ^= 0x55
        try:
            found = decode_png(bytes(damaged), info(image))
        except ValueError:
            continue
        np.testing.assert_array_equal(found, image[0])
