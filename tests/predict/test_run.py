from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from pattlite_dist.predict.results import Prediction
from pattlite_dist.predict.run import _Album, _groups
from pattlite_dist.predict.sources import Source


def test_pictures_are_grouped_and_nothing_waits_for_what_may_be_long_in_coming() -> None:
    def sources() -> Iterator[Source]:
        for kind in ("picture",) * 5 + ("video",) + ("picture", "pause", "picture", "camera"):
            yield Source(kind, Path(kind))  # type: ignore[arg-type]
        raise AssertionError("asked for more than is needed")

    groups = _groups(sources(), 3)
    found = ["".join(source.kind[0] for source in next(groups)) for _ in range(6)]
    assert found == ["ppp", "pp", "v", "p", "p", "c"]


def test_drawn_pictures_of_one_name_do_not_replace_each_other(tmp_path: Path) -> None:
    album = _Album(tmp_path)
    for name, frame in (("x/a.png", None), ("y/a.png", None), ("a-2.png", None), ("a.mp4", 7)):
        picture = Image.new("L", (8, 8))
        album.add(Prediction(name, 8, 8, (), frame, None, picture))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["a-000007.jpg", "a-2-2.jpg", "a-2.jpg", "a.jpg"]
