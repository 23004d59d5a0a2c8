from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pattlite_dist.errors import UserError
from pattlite_dist.predict.results import Box, Face, Prediction
from tests.ready import PHOTOGRAPH

LABELS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
BOX = Box(60, 80, 90, 110)


def prediction(label: str, given: object, box: Box = BOX) -> Prediction:
    shares = dict.fromkeys(LABELS, 0.25 / 6) | {"happy": 0.75}
    return Prediction("x", 224, 224, (Face(box, 0.9, label, 0.75, shares),), _given=given)


def test_a_frame_is_drawn_around_the_face_in_the_colour_of_its_label() -> None:
    before = np.array(Image.open(PHOTOGRAPH).convert("RGB"))
    given = before.copy()
    drawn = np.asarray(prediction("happy", given).draw())
    assert drawn.shape == before.shape and np.array_equal(given, before)
    purple = (0xCC, 0x79, 0xA7)
    assert (drawn[130, 60] == purple).all() and (drawn[189, 100] == purple).all()
    assert np.array_equal(drawn[90:180, 70:140], before[90:180, 70:140])
    changed = (drawn != before).any(-1)
    assert changed[:80].any() and not changed[:40].any()  # the label, above the frame
    unsure = np.asarray(prediction("unsure", given).draw())
    assert (unsure[130, 60] == (0x76, 0x76, 0x76)).all()


def test_a_label_stays_within_the_picture() -> None:
    for box in (Box(200, 0, 24, 224), Box(0, 0, 224, 224), Box(210, 200, 14, 24)):
        drawn = prediction("happy", Image.new("L", (224, 224)), box).draw()
        ink = np.asarray(drawn).any(-1)
        assert drawn.mode == "RGB" and drawn.size == (224, 224) and ink.any()


def test_a_picture_that_has_changed_is_not_drawn_on(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.new("L", (30, 30)).save(path)
    with pytest.raises(UserError, match="is 30x30, but was 224x224"):
        prediction("sad", path).draw()
    path.unlink()
    with pytest.raises(UserError, match="cannot read"):
        prediction("sad", path).draw()
