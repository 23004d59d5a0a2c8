"""The frames of a video or of a camera, one at a time."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pattlite_dist.errors import UserError
from pattlite_dist.predict.faces import INSTALL
from pattlite_dist.predict.pictures import shown

SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv"})


@dataclass(frozen=True)
class Frame:
    """A frame.

    Attributes:
        picture: uint8 [H, W, 3], RGB, upright.
        about: its source, number and time, as fields of a prediction.
    """

    picture: NDArray[np.uint8]
    about: dict[str, Any]


def frames(video: str | os.PathLike[str] | int, every: int = 1) -> Iterator[Frame]:
    """Open a video, or a camera by its number, and yield each frame with a multiple of `every`.

    The frames between are not decoded into pixels.

    Raises:
        UserError: OpenCV is not installed, or there is no such video or camera, or no frame of it
            can be read.
    """
    if every < 1:
        raise UserError(
            f"every={every}: give 1 for each frame, or a larger number to leave some out"
        )
    try:
        import cv2
    except ImportError as error:
        raise UserError(
            f"reading a video requires OpenCV ({error}); install it with {INSTALL}"
        ) from None
    name = f"camera {video}" if isinstance(video, int) else shown(video)
    if not isinstance(video, int) and not Path(video).is_file():
        raise UserError(f"{name} does not exist; check the path")
    capture = cv2.VideoCapture(video if isinstance(video, int) else str(video))
    if not capture.isOpened():
        capture.release()
        raise UserError(f"{name} cannot be opened as a video; check it with a player")
    return _read(cv2, capture, name, every, not isinstance(video, int))


def _read(cv2: Any, capture: Any, name: str, every: int, timed: bool) -> Iterator[Frame]:
    rate = float(capture.get(cv2.CAP_PROP_FPS)) if timed else 0.0
    number = 0
    try:
        while capture.grab():
            if number % every == 0:
                there, pixels = capture.retrieve()
                if not there:
                    break
                seconds = number / rate if rate > 0 else None
                about = {"source": name, "frame": number, "seconds": seconds}
                yield Frame(np.ascontiguousarray(pixels[..., ::-1]), about)
            number += 1
    finally:
        capture.release()
    if not number:
        raise UserError(f"{name} has no frame that can be read; check it with a player")
