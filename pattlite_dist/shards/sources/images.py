"""Encoded images: what is accepted, and how it is brought to the size and mode of the set."""

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pattlite_dist.errors import UserError
from pattlite_dist.shards.manifest import ImageInfo
from pattlite_dist.shards.sources.base import Item, Pixels, Reading, refusal

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF")
MOST_PIXELS = 1 << 26  # 200 MB of colour, more than any camera gives
_LONGEST_SIDE = 4096  # of an image of the set; a shard's reader takes 16 MiB a member
_MEND = "take it out of the data set or replace it"
_ORIENTATION = 0x0112  # EXIF's tag
_UPRIGHT = {
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
    """Decoder of a PNG, JPEG, BMP, WebP, GIF or TIFF file of one picture.

    An image that differs from the set's is brought to it in this order, and reported as
    converted:

    1. It is turned as its EXIF orientation says.
    2. Sixteen bits become eight by scaling; what is transparent shows black behind it.
    3. Colour becomes grey by the weights of ITU-R 601-2 (Pillow's), grey becomes colour by
       repeating it.
    4. It is cropped around its centre to the proportions of the set, so that faces are never
       stretched, and resized with Pillow's Lanczos filter, which averages when it shrinks.

    Attributes:
        image: the size and mode of the set.
        other_images: `refuse` makes an error of each image that would be converted.
    """

    image: ImageInfo
    other_images: Literal["convert", "refuse"] = "convert"

    def __call__(self, item: Item) -> tuple[Pixels, bool]:
        """Pixels, uint8 [C, H, W], and whether they were converted.

        Raises:
            UserError: no image, damaged, too large, animated, or to be converted but not to be.
        """
        picture, form = open_image(item.data, item.where)
        mode = "L" if self.image.channels == 1 else "RGB"
        size = (self.image.width, self.image.height)
        wanted = f"{mode} {size[0]}x{size[1]}"
        if form != wanted and self.other_images == "refuse":
            raise refusal(
                item.where,
                f"it is {form} and the set is {wanted}",
                "replace it, or leave out --other-images refuse",
            )
        if picture.mode != mode:
            picture = picture.convert(mode)
        if picture.size != size:
            picture = ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
        pixels = np.asarray(picture, np.uint8).reshape(*size[::-1], self.image.channels)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1)), form != wanted


def open_image(data: bytes, where: str) -> tuple[Image.Image, str]:
    """Decode a file to 8-bit grey (`L`) or colour (`RGB`), upright and without transparency.

    Returns:
        The image, and its form as it was stored: mode and size, `L 48x48`, and whether it is
        turned.

    Raises:
        UserError: it is no image of `FORMATS`, damaged, too large, animated, or has 32 bits.
    """
    if not data:
        raise refusal(where, "it is empty", _MEND)
    try:
        with warnings.catch_warnings():
            # Pillow warns of large images, which are refused here, and of flaws in EXIF data,
            # which no viewer minds.
            warnings.simplefilter("ignore")
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
            _check(picture, where)
            picture.load()
            turn = _UPRIGHT.get(_orientation(picture))
            form = f"{_stored_mode(picture)} {picture.width}x{picture.height}"
            plain = _plain(picture, where)
    except UserError:
        raise
    except UnidentifiedImageError:
        raise refusal(where, f"it is no image of {', '.join(FORMATS)}", _MEND) from None
    except Image.DecompressionBombError:
        raise _too_large(where) from None
    except Exception as error:  # damaged files raise anything, from SyntaxError to struct.error
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise refusal(where, f"it is cut off or damaged ({reason})", _MEND) from error
    if turn is not None:
        plain, form = plain.transpose(turn), f"{form} turned by its EXIF orientation"
    return plain, form


def set_image(
    reading: Reading, own: ImageInfo | None, first: Callable[[], tuple[bytes, str]]
) -> ImageInfo:
    """The size and mode of a set: the user's, else the data set's own, else the first image's.

    Args:
        reading: the user's.
        own: the data set's own; None if it has none.
        first: reads the first image and tells what messages call it; called only if needed.

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
                "give the size of the set with --image-size",
            )
    channels = reading.channels or (own.channels if own else 3)
    height, width = (own.height, own.width) if own and size is None else (size or 1, size or 1)
    return ImageInfo(channels=channels, height=height, width=width)


def _check(picture: Image.Image, where: str) -> None:
    if picture.width * picture.height > MOST_PIXELS:
        raise _too_large(where)
    # A camera's JPEG may hold a second picture for depth or preview (MPO): the first is meant.
    if picture.format != "MPO" and getattr(picture, "is_animated", False):
        raise refusal(where, "it holds more than one picture", "save the one that is meant")


def _too_large(where: str) -> UserError:
    return refusal(where, f"it has more than {MOST_PIXELS} pixels", _MEND)


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken EXIF data raises anything, and the picture is none the worse
        return 1


def _stored_mode(picture: Image.Image) -> str:
    mark = " with transparency" if "transparency" in picture.info else ""
    return picture.mode + mark


def _plain(picture: Image.Image, where: str) -> Image.Image:
    """As `L` or `RGB` of eight bits."""
    mode = picture.mode
    if mode.startswith("I;16") or (mode == "I" and picture.format == "PNG"):
        return Image.fromarray(((np.asarray(picture).astype(np.int64) + 128) // 257).astype("u1"))
    if mode in ("I", "F"):
        raise refusal(where, "it has 32 bits a pixel, of unknown range", "save it with 8 bits")
    if mode in ("LA", "La", "RGBA", "RGBa", "PA") or "transparency" in picture.info:
        coloured = picture.convert("RGBA")
        black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
        flat = Image.alpha_composite(black, coloured)
        return flat.convert("L" if mode in ("1", "L", "LA", "La") else "RGB")
    if mode in ("L", "RGB"):
        return picture
    return picture.convert("L" if mode == "1" else "RGB")
