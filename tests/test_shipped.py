"""Configurations and profiles that come with the package: found by name, listed, copied."""

from pathlib import Path

import pytest
import yaml

from pattlite_dist.cli import main, parse
from pattlite_dist.commands.options import given_config
from pattlite_dist.errors import UserError
from pattlite_dist.shipped import CONFIGS, PROFILES, Kind, about, copy, find, shipped
from tests.conftest import ROOT

SOURCES = {CONFIGS: ROOT / "configs", PROFILES: ROOT / "launch" / "profiles"}
EACH = pytest.mark.parametrize(
    ("kind", "name"),
    [
        (kind, path.stem)
        for kind, folder in SOURCES.items()
        for path in sorted(folder.glob("*.yaml"))
    ],
    ids=str,
)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@EACH
def test_each_is_found_by_its_name_in_any_folder(kind: Kind, name: str) -> None:
    assert find(kind, name) == shipped(kind)[name] == SOURCES[kind] / f"{name}.yaml"
    assert about(find(kind, name)).endswith(".")


def test_an_installed_package_has_its_own(tmp_path: Path) -> None:
    package = tmp_path / "site-packages" / "pattlite_dist"
    folder = package / "configs"
    folder.mkdir(parents=True)
    (folder / "one.yaml").touch()
    (tmp_path / "site-packages" / "configs").mkdir()
    assert shipped(CONFIGS, package) == {"one": folder / "one.yaml"}


def test_a_name_is_that_of_a_file_here_before_that_of_an_installed_one(tmp_path: Path) -> None:
    folder = tmp_path / "configs"
    folder.mkdir()
    for name in ("fer2013", "mine"):
        (folder / f"{name}.yaml").write_text("seed: 7\n")
    assert [given_config(parse("train", ["-c", name])).seed for name in ("fer2013", "mine")] == [
        7, 7,
    ]  # fmt: skip
    assert given_config(parse("train", ["-c", "notebook"])).name == "notebook"


def test_a_path_is_that_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "fer2013").write_text("seed: 8\n")
    assert find(CONFIGS, "fer2013") == Path("fer2013")
    (tmp_path / "fer2013").unlink()
    (tmp_path / "fer2013").mkdir()  # a folder of shards, say
    assert find(CONFIGS, "fer2013") == SOURCES[CONFIGS] / "fer2013.yaml"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("configs/pattlite.yaml", "did you mean -c pattlite?"),
        ("fer2013.yml", "did you mean -c fer2013?"),
        ("", "does not exist"),
        ("a: 1", "does not exist"),
        ("\0", "does not exist"),
        ("x" * 300, r"\(demo, fer2013, .*notebook, pattlite; see `pattlite configs`\)$"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(given: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        find(CONFIGS, given)


@EACH
def test_each_can_be_copied_and_used(kind: Kind, name: str, tmp_path: Path) -> None:
    assert main([kind.verb, "copy", name]) == 0
    copied = tmp_path / f"{name}.yaml"
    assert copied.read_bytes() == shipped(kind)[name].read_bytes()
    assert find(kind, f"{name}.yaml") == Path(f"{name}.yaml")


def test_a_copy_has_the_name_that_it_is_given_and_replaces_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sub").mkdir()
    assert copy(CONFIGS, "demo", Path("sub")) == Path("sub", "demo.yaml")
    assert main(["configs", "copy", "demo", "sub/mine.yaml"]) == 0
    assert "`pattlite train -c sub/mine.yaml`" in capsys.readouterr().out
    for out in ("sub", "sub/mine.yaml"):
        assert main(["configs", "copy", "demo", out]) == 2
        assert "exists; remove it, or name another file after demo" in capsys.readouterr().err
    assert main(["profiles", "copy", "demo"]) == 2
    assert "no profile 'demo' is installed; choose from cpu, one-gpu" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "sub").iterdir()) == ["demo.yaml", "mine.yaml"]


@pytest.mark.parametrize("kind", SOURCES, ids=str)
def test_a_list_names_each_and_says_what_it_is_for(
    kind: Kind, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([kind.verb]) == 0
    listed = capsys.readouterr().out
    for name, path in shipped(kind).items():
        [line] = [line for line in listed.splitlines() if line.split(" ")[0] == name]
        assert line.removeprefix(name).strip() in " ".join(path.read_text().split()).replace(
            "# ", ""
        )
        assert isinstance(yaml.safe_load(path.read_text()), dict)
