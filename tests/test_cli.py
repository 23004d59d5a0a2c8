import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pattlite_dist import stores
from pattlite_dist.cli import VERBS, main
from tests.conftest import ROOT, Run, environment


def test_help_names_every_verb_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from pattlite_dist.cli import main; main(['--help']); "
        "print([m for m in ('torch', 'numpy', 'pydantic', 'jsonargparse') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    *text, heavy = done.stdout.splitlines()
    assert heavy == "[]"
    assert all(any(verb in line for line in text) for verb in VERBS)


@pytest.mark.parametrize("verb", list(VERBS))
def test_each_verb_has_help_without_torch(verb: str) -> None:
    code = (
        "import sys\nfrom pattlite_dist.cli import main\n"
        f"try: main([*{verb.split()!r}, '--help'])\n"
        "except SystemExit as e: assert not e.code\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert f"usage: pattlite {verb}" in done.stdout
    assert "<" not in done.stdout, "a type as Python prints it"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "'trian' is not a verb"),
        (["shards"], "'shards' is not a verb"),
        (["train", "--optim.lrr=1"], "optim.lrr"),
        (["train", "--optim.lr=-1"], "optim.lr"),
        (["train", "optim.lr=fast"], "optim.lr"),
        (["train", "--model.heads=7"], "not a multiple of heads 7"),
        (["train", "-c", "nowhere.yaml"], "nowhere.yaml"),
        (["train", "--name=../escape"], "name"),
        (["train", "--data.shards=nowhere"], "nowhere is not a finished shard set"),
        (["train", "--data.shards=pipe:cat x"], "allow_pipe"),
        (["evaluate"], "target"),
        (["shards", "create", "nowhere.csv", "out"], "nowhere.csv does not exist"),
        (["shards", "create", "a", "b", "--image-size=x"], "--image-size: Expected a int. Got"),
        (["shards", "create", "a", "b", "--channels=2"], "--channels: Expected a Literal[1, 3]"),
    ],
)
def test_a_users_mistake_is_one_line_and_status_2(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("pattlite: error: ")
    assert error.count("\n") == 1, error
    assert message in error
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_key_in_a_file_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("optim:\n  lrr: 1\n")
    assert main(["train", "-c", str(path)]) == 2
    assert "lrr" in capsys.readouterr().err


def test_the_resolved_configuration_is_printed(pattlite: Run, tmp_path: Path) -> None:
    config = str(ROOT / "configs" / "fer2013.yaml")
    done = pattlite("train", "-c", config, "optim.lr=3e-4", "--seed", "5", "--print-config")
    assert done.returncode == 0, done.stderr
    content = yaml.safe_load(done.stdout)
    assert content["optim"]["lr"] == 3e-4
    assert content["seed"] == 5
    assert content["trainer"]["global_batch"] == 64  # from the file
    assert content["trainer"]["eval_batch"] == 128  # a default
    assert list(tmp_path.iterdir()) == []


def test_the_shard_creation_script_is_the_same_command(faces_csv: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    subprocess.run(
        [sys.executable, str(ROOT / "shards" / "create.py"), str(faces_csv), str(out)],
        env=environment(), check=True, capture_output=True,
    )  # fmt: skip
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["source"]["rows"] == 184
    wrong = subprocess.run(
        [sys.executable, str(ROOT / "shards" / "create.py"), str(tmp_path / "no.csv"), str(out)],
        env=environment(), check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert wrong.returncode == 2
    assert wrong.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--data.shardz=https://ada:5ecret@host/x?s=5ecret"],
        ["train", "--data.shards=https://ada:5ecret@host/x?s=5ecret", "--optim.lr=-1"],
        ["train", "--data.shards=https://ada:5ecret/x@host/x"],
        ["train", "--data.shards=pipe:curl -u ada:5ecret https://host/{name}"],
        ["evaluate", "nowhere", "--shards", "https://host/x?s=5ecret"],
        ["shards", "verify", "http://ada:5ecret@127.0.0.1:1/x?s=5ecret"],
        ["https://ada:5ecret@host/x"],
    ],
)
def test_a_login_on_the_command_line_is_in_no_message_and_in_no_record_of_the_command(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATTLITE_SHARDS", "")
    monkeypatch.setattr(stores.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(sys, "argv", ["pattlite", *words])
    assert main() == 2
    told = capsys.readouterr()
    assert "5ecret" not in told.out + told.err
    assert told.err.startswith("pattlite: error: ") or "trying again" in told.err
    if "pattlite: error: a" not in told.err and "the login in" not in told.err:
        assert "5ecret" not in str(sys.argv)
