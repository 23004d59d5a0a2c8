"""What may be given as a picture: a path, a PIL image, or an array of uint8, RGB or grey."""

import os
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pattlite_dist.errors import UserError
from pattlite_dist.shards.sources.images import open_image, upright

Picture: TypeAlias = str | os.PathLike[str] | Image.Image | NDArray[np.uint8]


def open_picture(given: Picture) -> tuple[str, Image.Image]:
    """Its name, and its pixels: upright, 8 bits, `L` or `RGB`, without transparency.

    Raises:
        UserError: it cannot be read, or is of a kind or a type that is not accepted.
    """
    if isinstance(given, str | os.PathLike):
        name = shown(given)
        try:
            with open(given, "rb") as stream:  # noqa: PTH123  a Path takes longer than the reading
                data = stream.read()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"cannot read {name}: {reason}; check the path") from error
        return name, open_image(data, name)[0]
    if isinstance(given, Image.Image):
        name = str(getattr(given, "filename", "")) or "picture"
        return name, upright(given, name)
    return "array", Image.fromarray(_checked(given))


def shown(path: str | os.PathLike[str]) -> str:
    """A path as text that can be printed and written to a file, whatever its bytes are."""
    return os.fsencode(path).decode(errors="replace")


def _checked(given: Any) -> NDArray[np.uint8]:
    """A picture's array, [H, W] or [H, W, 3]."""
    if not isinstance(given, np.ndarray):
        raise UserError(
            f"a {type(given).__name__} is not a picture; give a path, a PIL image, or a NumPy "
            "array of uint8"
        )
    if given.dtype != np.uint8:
        raise UserError(f"the array is of {given.dtype}; give one of uint8, from 0 (black) to 255")
    array = given[..., 0] if given.ndim == 3 and given.shape[2] == 1 else given
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3) or not array.size:
        shape = " x ".join(map(str, given.shape)) or "no sides"
        raise UserError(
            f"the array has the shape {shape}; give one of [height, width] for grey or [height, "
            "width, 3] for red, green and blue, and a list for several pictures"
        )
    return np.ascontiguousarray(array)
