"""`-c`: files with old names, files that runs have written, and the files of the package."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from pattlite_dist import renamed
from pattlite_dist.cli import main, parse
from pattlite_dist.commands.configfile import renewed
from pattlite_dist.commands.options import given_config
from pattlite_dist.config import Config, parse_config, to_yaml
from pattlite_dist.errors import UserError
from pattlite_dist.migrate import VERSION
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def _nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renamed, "_told", set())


def write(path: Path, content: Any) -> str:
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return str(path)


def given(*arguments: str) -> Config:
    return given_config(parse("train", arguments))


def test_an_old_name_in_a_file_is_read_and_told_with_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "mine.yaml", "optim: {lr: 1e-3}\nmodel: {name: seed, heads: 4}\n")
    found = given("-c", path, "model.width=64")
    new = {"name": "mobilenetv2-vit", "heads": 4, "width": 64}
    assert found == parse_config({"optim": {"lr": 1e-3}, "model": new}, "test")
    assert capsys.readouterr().err == (
        f"pattlite: warning: {path}: model.name seed is now mobilenetv2-vit; the next minor "
        "version will no longer read the old name\n"
    )


@pytest.mark.parametrize(
    "words", [["model.name=seed"], ["--model.name=seed"], ["--model.name", "seed"]]
)
def test_an_old_name_on_the_command_line_is_read_and_told(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert given(*words).model.name == "mobilenetv2-vit"
    assert capsys.readouterr().err.startswith("pattlite: warning: model.name seed is now mobile")


def test_an_old_file_of_the_package_is_read_under_its_new_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    old, new = ROOT / "configs" / "seed.yaml", ROOT / "configs" / "notebook.yaml"
    assert given("-c", str(old)) == given("-c", str(new))
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"pattlite: warning: {old} is now {new}, ")


def test_a_file_with_the_names_of_now_is_left_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "mine.yaml", "seed: 3\nname: seed\nmodel: {name: pattlite}\n")
    assert renewed(path) is None
    found = given("-c", path)
    assert (found.seed, found.name, found.model.name) == (3, "seed", "pattlite")
    assert capsys.readouterr().err == ""


def test_a_configuration_that_a_run_has_written_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = parse_config(
        {"name": "2024-01-01", "runs": "12", "optim": {"lr": 1e-5}, "data": {"cache": "no"},
         "augment": {"mean": [0.1, 0.2, 0.3]}, "trainer": {"precision": "32"}},
        "test",
    )  # fmt: skip
    path = write(tmp_path / "config.yaml", to_yaml(one))
    assert given("-c", path) == one
    assert given("-c", path, "seed=4") == one.model_copy(update={"seed": 4})
    assert capsys.readouterr().err == ""


def test_a_file_that_says_its_version_is_brought_up_from_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "config.yaml", {"version": 0, "model": {"name": "seed"}})
    assert given("-c", path).model.name == "mobilenetv2-vit"
    assert capsys.readouterr().err == ""
    path = write(tmp_path / "config.yaml", {"version": VERSION, "model": {"name": "seed"}})
    assert main(["train", "-c", path]) == 2
    assert "model.name" in capsys.readouterr().err


@pytest.mark.parametrize(("version", "message"), [(99, "has version 99"), ("x", "not a version")])
def test_a_version_that_is_not_known_is_told(
    version: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "config.yaml", {"version": version, "name": "a"})
    assert main(["train", "-c", path]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"pattlite: error: {path}: version: ")
    assert message in error
    assert error.count("\n") == 1


def test_the_version_is_no_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--version=1"]) == 2
    assert main(["train", "version=1"]) == 2
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "--version" not in capsys.readouterr().out


@pytest.mark.parametrize("content", ["a: b: c", "- 1\n", "text", "\0"])
def test_what_is_no_configuration_is_refused_with_its_name(content: str, tmp_path: Path) -> None:
    path = write(tmp_path / "mine.yaml", content)
    with pytest.raises(UserError, match=r"^\S*mine\.yaml"):
        renewed(path)


def test_a_part_that_is_no_part_is_told_by_who_reads_it_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "mine.yaml", "model: seed\n")
    assert renewed(path) is None
    assert main(["train", "-c", path]) == 2
    assert capsys.readouterr().err.startswith("pattlite: error: ")


def test_a_file_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert renewed(str(tmp_path / "no.yaml")) is None
    assert main(["train", "-c", str(tmp_path / "no.yaml")]) == 2
    assert "no.yaml" in capsys.readouterr().err
