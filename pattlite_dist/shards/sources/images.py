"""Encoded images: what is accepted, and how it is converted to the set's size and mode."""

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pattlite_dist.errors import UserError
from pattlite_dist.shards.manifest import ImageInfo
from pattlite_dist.shards.sources.base import (
    Damaged,
    Item,
    Pixels,
    Reading,
    damage,
    refusal,
)

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
MOST_PIXELS = 1 << 26  # 200 MB in colour, more than any camera produces
_LONGEST_SIDE = 4096  # of an image of the set; readers of shards accept 16 MiB per member
_FIX = "replace it"
_ORIENTATION = 0x0112  # EXIF's tag
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class EncodedImage:
    """Decoder for PNG, JPEG, BMP, WebP, GIF, TIFF and PGM or PPM files with a single picture.

    An image whose form differs from the set's is converted in these steps, and reported as
    converted:

    1. It is rotated according to its EXIF orientation.
    2. Sixteen bits are scaled to eight; transparent areas are blended with black.
    3. Colour is converted to grey with the weights of ITU-R 601-2 (Pillow's), grey to colour by
       repeating the channel.
    4. It is cropped around its centre to the proportions of the set, so that faces are never
       stretched, and resized with Pillow's Lanczos filter, which averages when shrinking.

    Attributes:
        image: the size and mode of the set.
        other_images: `refuse` raises an error for each image that would be converted.
    """

    image: ImageInfo
    other_images: Literal["convert", "refuse"] = "convert"

    def __call__(self, item: Item) -> tuple[Pixels, bool]:
        """Pixels, uint8 [C, H, W], and whether they were converted.

        Raises:
            Damaged: not an image, damaged, too large, or animated.
            UserError: in need of a conversion that `other_images` refuses.
        """
        picture, form = open_image(item.data, item.where)
        mode = "L" if self.image.channels == 1 else "RGB"
        wanted = f"{mode} {self.image.width}x{self.image.height}"
        if form != wanted and self.other_images == "refuse":
            raise refusal(
                item.where,
                f"it is {form}, but the set is {wanted}",
                "replace it, or leave out --other-images refuse",
            )
        return fit(picture, self.image), form != wanted


def fit(picture: Image.Image, image: ImageInfo) -> Pixels:
    """Pixels of a set's size and mode, uint8 [C, H, W], of an upright `L` or `RGB` picture."""
    mode = "L" if image.channels == 1 else "RGB"
    if picture.mode != mode:
        picture = picture.convert(mode)
    if picture.size != (image.width, image.height):
        picture = ImageOps.fit(picture, (image.width, image.height), Image.Resampling.LANCZOS)
    pixels = np.asarray(picture, np.uint8).reshape(image.height, image.width, image.channels)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def open_image(data: bytes, where: str) -> tuple[Image.Image, str]:
    """Decode a file to 8-bit grey (`L`) or colour (`RGB`), upright and without transparency.

    Returns:
        The image, and its form as stored: mode and size, such as `L 48x48`, and whether it was
        rotated.

    Raises:
        Damaged: it is not an image in one of `FORMATS`, damaged, too large, animated, or has 32
            bits.
    """
    if not data:
        raise damage(where, "it is empty", _FIX)
    try:
        with warnings.catch_warnings():
            # Pillow warns about large images, which are refused here, and about flaws in EXIF
            # data, which viewers ignore.
            warnings.simplefilter("ignore")
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
            _check(picture, where)
            picture.load()
            turn = UPRIGHT.get(orientation(picture))
            form = f"{_stored_mode(picture)} {picture.width}x{picture.height}"
            plain = _plain(picture, where)
    except UserError:
        raise
    except UnidentifiedImageError:
        raise damage(
            where, f"it is not an image of a known format ({', '.join(FORMATS)})", _FIX
        ) from None
    except Image.DecompressionBombError:
        raise _too_large(where) from None
    except Exception as error:  # damaged files raise anything, from SyntaxError to struct.error
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise damage(where, f"it is truncated or damaged ({reason})", _FIX) from error
    if turn is not None:
        plain, form = plain.transpose(turn), f"{form} rotated by its EXIF orientation"
    return plain, form


def upright(picture: Image.Image, where: str) -> Image.Image:
    """Convert a picture that is already open as `open_image` converts a file.

    Raises:
        Damaged: it has 32 bits.
    """
    turn, plain = UPRIGHT.get(orientation(picture)), _plain(picture, where)
    return plain if turn is None else plain.transpose(turn)


def set_image(
    reading: Reading, own: ImageInfo | None, first: Callable[[], tuple[bytes, str]]
) -> ImageInfo:
    """The size and mode of a set: the user's, else the data set's own, else the first image's.

    Args:
        reading: the user's options.
        own: the data set's own, or that of most of its images; None if neither is known.
        first: returns the first image and its name in messages; called only if needed.

    Raises:
        UserError: the size is out of range, or the first image cannot be read.
    """
    size = reading.image_size
    if size is not None and not 1 <= size <= _LONGEST_SIDE:
        raise UserError(
            f"--image-size {size} is out of range; give the side of an image, from 1 to "
            f"{_LONGEST_SIDE}"
        )
    if own is None and (size is None or reading.channels is None):
        data, where = first()
        picture, _ = open_image(data, where)
        own = ImageInfo(
            channels=1 if picture.mode == "L" else 3, height=picture.height, width=picture.width
        )
        if size is None and max(picture.size) > _LONGEST_SIDE:
            raise refusal(
                where,
                f"it has {picture.width}x{picture.height} pixels, too many for a whole set",
                "set the size with --image-size",
            )
    if own is not None and size is None and max(own.width, own.height) > _LONGEST_SIDE:
        raise UserError(
            f"most images have {own.width}x{own.height} pixels, too many for a whole set; set the "
            "size with --image-size"
        )
    channels = reading.channels or (own.channels if own else 3)
    height, width = (own.height, own.width) if own and size is None else (size or 1, size or 1)
    return ImageInfo(channels=channels, height=height, width=width)


def _check(picture: Image.Image, where: str) -> None:
    if picture.width * picture.height > MOST_PIXELS:
        raise _too_large(where)
    # A camera's JPEG may contain a second picture for depth or preview (MPO): use the first.
    if picture.format != "MPO" and getattr(picture, "is_animated", False):
        raise damage(where, "it contains more than one picture", "save the intended one")


def _too_large(where: str) -> Damaged:
    return damage(where, f"it has more than {MOST_PIXELS} pixels", _FIX)


def orientation(picture: Image.Image) -> int:
    """What EXIF says of an image: a key of `UPRIGHT`, or 1 for one that is upright."""
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken EXIF data raises anything, and the picture is still fine
        return 1


def _stored_mode(picture: Image.Image) -> str:
    mark = " with transparency" if "transparency" in picture.info else ""
    return picture.mode + mark


def _plain(picture: Image.Image, where: str) -> Image.Image:
    """As 8-bit `L` or `RGB`."""
    mode = picture.mode
    if mode.startswith("I;16") or (mode == "I" and picture.format in ("PNG", "PPM")):
        return Image.fromarray(((np.asarray(picture).astype(np.int64) + 128) // 257).astype("u1"))
    if mode in ("I", "F"):
        raise damage(where, "it has 32 bits per pixel, of unknown range", "save it with 8 bits")
    if mode in ("LA", "La", "RGBA", "RGBa", "PA") or "transparency" in picture.info:
        coloured = picture.convert("RGBA")
        black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
        flat = Image.alpha_composite(black, coloured)
        return flat.convert("L" if mode in ("1", "L", "LA", "La") else "RGB")
    if mode in ("L", "RGB"):
        return picture
    return picture.convert("L" if mode == "1" else "RGB")
