import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pattlite_dist.errors import UserError
from pattlite_dist.predict.faces import Detector, cut
from pattlite_dist.predict.results import Box
from pattlite_dist.shards.manifest import ImageInfo
from tests.absent import absent
from tests.conftest import environment
from tests.ready import PHOTOGRAPH

GREY = ImageInfo(channels=1, height=48, width=48)
PERSON = Image.open(PHOTOGRAPH).convert("RGB")


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector()


def overlap(a: Box, b: Box) -> float:
    """Intersection over union."""
    wide = min(a.left + a.width, b.left + b.width) - max(a.left, b.left)
    high = min(a.top + a.height, b.top + b.height) - max(a.top, b.top)
    both = max(wide, 0) * max(high, 0)
    return both / (a.width * a.height + b.width * b.height - both)


def test_the_face_of_a_photograph_is_found(detector: Detector) -> None:
    [face] = detector.find(PERSON)
    assert overlap(face.box, Box(48, 73, 117, 143)) > 0.9  # drawn around it by eye
    assert 0.8 < face.score <= 1
    left, top, side = face.square
    assert side == max(face.box.width, face.box.height)
    assert abs(left + side / 2 - (face.box.left + face.box.width / 2)) <= 1
    assert abs(top + side / 2 - (face.box.top + face.box.height / 2)) <= 1
    [grey] = detector.find(PERSON.convert("L"))
    assert overlap(grey.box, face.box) > 0.8


def test_boxes_are_those_of_the_picture_however_large_it_is(detector: Detector) -> None:
    [small] = detector.find(PERSON)
    [large] = detector.find(PERSON.resize((1568, 1568)))
    scaled = Box(*(round(value / 7) for value in vars(large.box).values()))
    assert overlap(scaled, small.box) > 0.85


def test_several_faces_come_the_largest_first(detector: Detector) -> None:
    both = Image.new("RGB", (400, 240), "white")
    both.paste(PERSON.resize((130, 130)), (10, 60))
    both.paste(PERSON, (170, 8))
    first, second = detector.find(both)
    assert first.box.left > 170 > second.box.left + second.box.width
    assert first.square[2] > second.square[2]


def test_nothing_is_found_where_there_is_nothing(detector: Detector) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    assert detector.find(Image.fromarray(noise)) == []
    assert detector.find(Image.new("L", (1, 1))) == []
    assert detector.find(Image.new("L", (3000, 2))) == []


_NARROW = """
import numpy as np
from PIL import Image
from pattlite_dist.predict.faces import Detector

detector, random = Detector(), np.random.default_rng(0)
noise = Image.fromarray(random.integers(0, 256, (200, 300, 3), dtype=np.uint8))
for size in [(1, 1), (3000, 2), (640, 1), (2, 3000), (640, 32), (32, 640), (640, 33)] * 20:
    assert detector.find(noise) == []
    assert detector.find(Image.new("L", size)) == [], size
"""


def test_nothing_is_found_in_memory_that_was_not_written() -> None:
    """OpenCV reads some where a map of its network has one row; here it always holds the same."""
    env = environment(MALLOC_PERTURB_="60")
    done = subprocess.run(
        [sys.executable, "-c", _NARROW], env=env, capture_output=True, text=True, check=False
    )
    assert not done.returncode, done.stderr


def test_a_crop_within_the_picture_is_that_part_of_it() -> None:
    pixels = cut(PERSON.convert("L"), (30, 40, 48), GREY)
    assert pixels.shape == (1, 48, 48)
    assert np.array_equal(pixels[0], np.asarray(PERSON.convert("L"))[40:88, 30:78])


def test_a_crop_beyond_the_picture_repeats_its_edge() -> None:
    for mode, image in (("L", GREY), ("RGB", ImageInfo(channels=3, height=48, width=48))):
        picture = PERSON.convert(mode)
        whole = np.atleast_3d(np.asarray(picture)).transpose(2, 0, 1)
        pixels = cut(picture, (-8, 200, 48), image)
        assert np.array_equal(pixels[:, :24, 8:], whole[:, 200:224, :40])
        assert (pixels[:, :24, :8] == whole[:, 200:224, :1]).all()
        assert (pixels[:, 24:, 8:] == whole[:, 223:, :40]).all()


def test_what_is_missing_to_find_faces_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with absent("cv2"), pytest.raises(UserError, match=r"requires OpenCV.*pattlite_dist\[faces\]"):
        Detector()
    with monkeypatch.context() as patch:
        patch.setattr("pattlite_dist.predict.faces.find_spec", lambda name: None)
        with pytest.raises(UserError, match=r"not installed.*--faces whole"):
            Detector()
    with pytest.raises(UserError, match=r"nowhere\.onnx does not exist"):
        Detector("nowhere.onnx")
    (tmp_path / "other.onnx").write_bytes(b"no network")
    with pytest.raises(UserError, match="is not a YuNet model") as caught:
        Detector(tmp_path / "other.onnx")
    assert "\n" not in str(caught.value)
