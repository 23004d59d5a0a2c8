"""The networks that come with the package, on photographs that come with other packages.

Their faces were counted by eye, and a label is expected where it is plain to see.
"""

import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from pattlite_dist import Model, load
from pattlite_dist.cli import main
from pattlite_dist.model.weights import names
from tests.conftest import ROOT
from tests.ready import PHOTOGRAPH

UNCLEAR = ""  # a face whose expression people would name differently
# By package and file, the faces from left to right.
PHOTOGRAPHS: dict[tuple[str, str], list[str]] = {
    ("skimage", "data/astronaut.png"): ["happy"],
    ("skimage", "data/camera.png"): [UNCLEAR],  # in profile
    ("skimage", "data/chelsea.png"): [],  # a cat
    ("skimage", "data/coffee.png"): [],
    ("skimage", "data/motorcycle_left.png"): [],
    ("skimage", "data/retina.jpg"): [],
    ("skimage", "data/rocket.jpg"): [],
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"): [UNCLEAR],
}


def photograph(package: str, name: str) -> Path:
    """A file of an installed package, which is not imported."""
    found = find_spec(package)
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / name


@pytest.fixture(scope="module", params=names())
def model(request: pytest.FixtureRequest) -> Model:
    return load(f"pretrained:{request.param}", accelerator="cpu")


@pytest.mark.parametrize(("package", "name"), PHOTOGRAPHS)
def test_the_faces_are_found_and_named_that_a_person_sees(
    model: Model, package: str, name: str
) -> None:
    found = sorted(model.predict(photograph(package, name)), key=lambda face: face.box.left)
    expected = PHOTOGRAPHS[package, name]
    assert len(found) == len(expected)
    assert [
        face.label if label else UNCLEAR for face, label in zip(found, expected, strict=True)
    ] == expected


ROW = re.compile(r"^(\w+) +([\d.]+) % +(\d+) +(\d+) +(\d+) +(\d+) +(\S+)$", re.M)


@pytest.mark.parametrize(
    ("page", "source"),
    [
        ("README.md", ("tests", str(PHOTOGRAPH.relative_to(ROOT / "tests")))),
        ("docs/use.md", ("skimage", "data/astronaut.png")),
    ],
)
def test_the_pages_show_what_the_network_says(
    page: str, source: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    [shown] = ROW.findall((ROOT / page).read_text())
    monkeypatch.chdir(tmp_path)
    Path(shown[-1]).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(photograph(*source), shown[-1])  # as the page calls it; Pillow asks the content
    assert main(["predict", "pretrained", shown[-1]]) == 0
    [said] = ROW.findall(capsys.readouterr().out)
    assert abs(float(said[1]) - float(shown[1])) <= 0.3, "versions of PyTorch differ by less"
    assert (said[0], *said[2:]) == (shown[0], *shown[2:])
