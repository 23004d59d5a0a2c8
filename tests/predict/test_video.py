import itertools
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from pattlite_dist.errors import UserError
from pattlite_dist.predict.video import frames
from tests.absent import absent
from tests.ready import PHOTOGRAPH

PERSON = np.asarray(Image.open(PHOTOGRAPH).convert("RGB"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve frames, half a second: a photograph that grows darker."""
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 24, (224, 224))
    for number in range(12):
        writer.write(np.ascontiguousarray((PERSON * (1 - number / 24)).astype(np.uint8)[..., ::-1]))
    writer.release()
    return path


def test_every_nth_frame_comes_with_its_number_and_time(clip: Path) -> None:
    found = [frame.about for frame in frames(clip, 5)]
    assert found == [
        {"source": str(clip), "frame": n, "seconds": pytest.approx(n / 24)} for n in (0, 5, 10)
    ]
    assert len(list(frames(clip))) == 12


def test_the_colours_are_in_their_order(clip: Path) -> None:
    first = next(iter(frames(clip))).picture
    assert first.shape == PERSON.shape and first.dtype == np.uint8
    right = np.abs(first.astype(int) - PERSON).mean()
    assert right < 10 < np.abs(first[..., ::-1].astype(int) - PERSON).mean()


def test_no_frame_is_read_before_it_is_wanted(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grabbed = []

    class Capture:  # no subclass of OpenCV's, whose objects the garbage collector trips over
        def __init__(self, video: str) -> None:
            self.real = opened(video)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.real, name)

        def grab(self) -> bool:
            grabbed.append(1)
            return bool(self.real.grab())

    opened = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    assert len(list(itertools.islice(frames(clip), 3))) == len(grabbed) == 3


def test_what_is_no_video_is_an_error(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    for video, message in [("nowhere.mp4", "does not exist"), (tmp_path / "text.mp4", "cannot be"),
                           (98, "camera 98 cannot be opened")]:  # fmt: skip
        with pytest.raises(UserError, match=message):
            frames(video)
    with pytest.raises(UserError, match="every=0"):
        frames(clip, 0)
    with absent("cv2"), pytest.raises(UserError, match=r"requires OpenCV.*\[faces\]"):
        frames(clip)
