import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pattlite_dist.errors import UserError
from pattlite_dist.predict.model import Prepared
from pattlite_dist.predict.results import Prediction
from pattlite_dist.predict.run import _Album, _Failures, _groups, _predictions
from pattlite_dist.predict.sources import Source


def test_pictures_are_grouped_and_nothing_waits_for_what_may_be_long_in_coming() -> None:
    def sources() -> Iterator[Source]:
        for kind in ("picture",) * 5 + ("video",) + ("picture", "pause", "picture", "camera"):
            yield Source(kind, Path(kind))  # type: ignore[arg-type]
        raise AssertionError("asked for more than is needed")

    groups = _groups(sources(), 3)
    found = ["".join(source.kind[0] for source in next(groups)) for _ in range(6)]
    assert found == ["ppp", "pp", "v", "p", "p", "c"]


class Overlapping:
    """A model whose network is done with one group once the first picture of the next is read."""

    def __init__(self, groups: int) -> None:
        self.left, self.begun = groups, threading.Semaphore(0)

    def prepare(self, given: str, faces: str) -> Any:
        number = int(Path(given).stem)
        if number % 64 == 0:
            self.begun.release()
        if number % 50 == 49:
            raise UserError(f"{number} is damaged")
        return Prepared(Prediction(given, 8, 8, ()), (), None)  # type: ignore[arg-type]

    def classify(self, prepared: Sequence[Prepared], least: float) -> list[Prediction]:
        self.left -= 1
        assert self.begun.acquire(timeout=30)
        if self.left:
            assert self.begun.acquire(timeout=30), "the next group is not being read"
            self.begun.release()
        return [one.blank for one in prepared]


def test_a_group_is_read_while_the_one_before_is_classified(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(150):
        (tmp_path / f"{number:03d}.png").touch()
    model: Any = Overlapping(3)
    found = list(_predictions(model, [str(tmp_path)], "whole", 1, 0.0, _Failures()))
    numbers = [int(Path(prediction.source).stem) for prediction in found]
    assert numbers == [number for number in range(150) if number % 50 != 49]
    assert capsys.readouterr().err.splitlines() == [
        f"pattlite: not read: {number} is damaged" for number in (49, 99, 149)
    ]


def test_drawn_pictures_of_one_name_do_not_replace_each_other(tmp_path: Path) -> None:
    album = _Album(tmp_path)
    for name, frame in (("x/a.png", None), ("y/a.png", None), ("a-2.png", None), ("a.mp4", 7)):
        picture = Image.new("L", (8, 8))
        album.add(Prediction(name, 8, 8, (), frame, None, picture))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["a-000007.jpg", "a-2-2.jpg", "a-2.jpg", "a.jpg"]
