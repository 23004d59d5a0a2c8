import contextlib
import errno
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pattlite_dist import stores
from pattlite_dist.cli import VERBS, main, parse
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
    purpose, _, example, _, *rest = done.stdout.splitlines()
    usage = next(line for line in rest if line and not line.startswith("See also"))
    assert purpose[0].isupper() and purpose.endswith(".")
    assert example.startswith(f"  pattlite {verb}")
    assert usage.startswith(f"usage: pattlite {verb}")
    python = (
        r"<|type:|Annotated|Literal|Optional|Union|typing|None|\\bint\\b|\\bfloat\\b|==|\\bstr\\b"
    )
    assert not re.search(python, done.stdout), "a type as Python prints it"


@pytest.mark.parametrize("verb", list(VERBS))
def test_the_example_of_each_verb_is_read(verb: str) -> None:
    example = shlex.split(VERBS[verb].example)
    words = verb.split()
    assert example[: len(words)] == words
    parse(verb, example[len(words) :])


@pytest.mark.parametrize(
    ("arguments", "first"),
    [
        (["help"], "usage: pattlite VERB [options]"),
        (["-h"], "usage: pattlite VERB [options]"),
        (["shards", "--help"], "usage: pattlite shards VERB [options]"),
        (["help", "shards"], "usage: pattlite shards VERB [options]"),
        (["help", "shards", "create"], "Convert a data set into WebDataset shards."),
        (["help", "compare"], "Print mean and deviation of runs, and test two configurations."),
    ],
)
def test_help_is_asked_for_in_several_ways(
    arguments: list[str], first: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.suppress(SystemExit):
        assert main(arguments) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[0] == first
    assert said.err == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "'trian' is not a verb"),
        (["trian"], "did you mean train?"),
        (["help", "trian"], "'trian' is not a verb"),
        (["verify"], "'verify' is not a verb; did you mean shards verify?"),
        (["version"], "did you mean --version?"),
        (["shards"], "'shards' is not a verb; known are shards create, shards sources, "),
        (["shards", "creat"], "'shards creat' is not a verb; known are shards create, "),
        (["train", "--optim.lrr=1"], "optim.lrr"),
        (["train", "--optim.lr_", "1"], "--optim.lr_ 1; did you mean optim.lr or optim.lr_rule?"),
        (["train", "optim.lr_=linear"], "did you mean optim.lr or optim.lr_rule?"),
        (["shards", "create", "a", "b", "--blank=keep"], "did you mean blanks?"),
        (["train", "--optim.lr=-1"], "optim.lr"),
        (["train", "optim.lr=fast"], "optim.lr"),
        (["train", "--model.heads=7"], "not a multiple of heads 7"),
        (
            ["train", "--model.width_mult=0.5", "--model.weights=imagenet"],
            "those of width_mult 1, not",
        ),
        (["train", "-c", "nowhere.yaml"], "nowhere.yaml does not exist; give a configuration's"),
        (["train", "-c", "x/demo.yaml"], "did you mean -c demo?"),
        (["train", "-c", "."], ". does not exist"),
        (["train", "-c", "x" * 5000], "xxx ... "),
        (["train"], "choose one with -c: an installed one (demo, fer2013, "),
        (["train", "--seed=3", "optim.lr=1e-4"], "no configuration is given"),
        (["submit", "--profile=one-gpu"], "no configuration is given"),
        (["submit", "-c", "demo", "--profile=gpu"], "(cpu, one-gpu, one-node, preemptible, two-n"),
        (["train", "--name=../escape"], "name"),
        (["train", "-c", "demo", "--data.shards=nowhere"], "nowhere is not a finished shard set"),
        (["train", "-c", "demo", "--data.shards=pipe:cat x"], "allow_pipe"),
        (["evaluate"], "target"),
        (["submit", "-c", "demo"], "required: --profile; see `pattlite submit --help`"),
        (["shards", "create", "nowhere.csv", "out"], "nowhere.csv does not exist"),
        (
            ["shards", "create", "a", "b", "--image-size=x"],
            "--image-size: Expected a whole number. Got",
        ),
        (["shards", "create", "a", "b", "--channels=2"], "--channels: Expected 1 or 3. Got"),
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


def test_a_file_system_that_does_not_answer_is_one_line_and_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """On status 2, torchrun would not start again."""

    def fail(*_: object) -> bytes:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(stores, "_first_pause", 0.0)
    monkeypatch.setattr(Path, "read_bytes", fail)
    config = str(ROOT / "tests" / "tiny.yaml")
    assert main(["train", "-c", config, f"--data.shards={tmp_path}", f"--runs={tmp_path}"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"pattlite: error: cannot read {tmp_path}/manifest.json: Stale file ha")
    assert error.endswith("(tried 5 times)")
    assert list(tmp_path.iterdir()) == []


CHECKPOINT = "epoch=0009-step=00000896-top1=0.6412.ckpt"


@pytest.mark.parametrize(
    ("verb", "arguments", "expected"),
    [
        ("evaluate", [CHECKPOINT, "views=flip"], {"target": Path(CHECKPOINT), "views": "flip"}),
        ("audit", ["batch=3", CHECKPOINT], {"target": Path(CHECKPOINT), "batch": 3}),
        ("train", ["--model.weights", CHECKPOINT, "seed=3"], {"model.weights": CHECKPOINT}),
        ("train", [f"model.weights={CHECKPOINT}"], {"model.weights": CHECKPOINT}),
        ("shards create", ["a=b.csv", "out=1", "jobs=2"], {"source": Path("a=b.csv"), "jobs": 2}),
        ("compare", ["a=1", "--against", "b=2"], {"runs": ["a=1"]}),
        (
            "sweep",
            ["--name", "n", "-c", "c=d.yaml", "--profile", "a=b.yaml", "seed=0,1"],
            {"profile": "a=b.yaml", "config": "c=d.yaml", "words": ["seed=0,1"]},
        ),
    ],
)
def test_a_files_name_with_an_equals_sign_is_no_option(
    verb: str, arguments: list[str], expected: dict[str, object]
) -> None:
    options = parse(verb, arguments)
    for key, value in expected.items():
        assert str(options[key]) == str(value)


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
