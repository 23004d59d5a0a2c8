"""Networks that come with the package: which there are, and what a name means."""

from pathlib import Path

import pytest

from pattlite_dist.errors import UserError
from pattlite_dist.model import weights
from pattlite_dist.model.weights import FOLDER, find, names

MOST = 5_000_000  # bytes of all files, which everybody who installs the package downloads


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("small.safetensors", "best.safetensors", "best.safetensors.md"):
        (tmp_path / name).touch()
    (tmp_path / "default").write_text("small\n")
    return tmp_path


def test_a_name_means_its_file_and_none_the_best(folder: Path) -> None:
    assert names(folder) == ["small", "best"]
    assert find("pretrained", folder) == find("pretrained:small", folder)
    assert find("pretrained:best", folder) == folder / "best.safetensors"
    (folder / "default").unlink()
    assert find("pretrained", folder) == folder / "best.safetensors"


@pytest.mark.parametrize("name", ["other", "", "../best", "best.safetensors", "a:b"])
def test_another_name_is_refused_with_those_that_there_are(name: str, folder: Path) -> None:
    with pytest.raises(UserError, match="from pretrained:small, pretrained:best, or") as caught:
        find(f"pretrained:{name}", folder)
    assert "\n" not in str(caught.value)


def test_an_installation_without_any_says_so(tmp_path: Path) -> None:
    for text in ("pretrained", "pretrained:best"):
        with pytest.raises(UserError, match=f"^{text}: this installation has no trained networks"):
            find(text, tmp_path / "nowhere")


def test_the_folder_is_looked_up_when_it_is_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "FOLDER", folder)
    assert names() == ["small", "best"]
    assert find("pretrained").parent == folder


def test_those_that_are_shipped_are_small_and_have_their_cards() -> None:
    shipped = sorted(FOLDER.glob("*"))
    assert sum(path.stat().st_size for path in shipped) < MOST
    files = {path.name for path in shipped}
    expected = {f"{name}.safetensors{end}" for name in names() for end in ("", ".md")}
    assert files - {"README.md"} == (expected | {"default"} if expected else set())
    if expected:
        assert (FOLDER / "default").read_text().strip() == names()[0]
