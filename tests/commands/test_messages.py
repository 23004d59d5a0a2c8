import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pattlite_dist.cli import main, parser_of
from pattlite_dist.commands.messages import LONGEST, essence, nearest, shortened
from pattlite_dist.compat.jsonargparse import actions
from tests.conftest import command, environment

KEYS = [action.dest for action in actions(parser_of("train")) if action.option_strings]


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("epochs", ["trainer.epochs"]),
        ("lr", ["optim.lr", "finetune.lr"]),
        ("batch-size", ["trainer.global_batch"]),
        ("learning_rate", ["optim.lr", "finetune.lr"]),
        ("eval-batch-size", ["trainer.eval_batch"]),
        ("optim.lrr", ["optim.lr", "optim.lr_rule"]),
        ("Epochs", ["trainer.epochs"]),
        ("shard", ["data.shards"]),
        ("trainer.global-batch", ["trainer.global_batch"]),
        ("zzz", []),
    ],
)
def test_the_nearest_keys_are_those_that_were_meant(key: str, near: list[str]) -> None:
    assert nearest(key, KEYS) == near


@given(st.text(max_size=30), st.lists(st.text(min_size=1, max_size=20)))
def test_any_key_has_at_most_three_near_ones_all_of_them_known(key: str, known: list[str]) -> None:
    found = nearest(key, known)
    assert len(found) <= 3 and set(found) <= set(known)


@given(st.text(max_size=2000))
def test_no_message_is_long(text: str) -> None:
    assert len(shortened(text)) <= LONGEST
    assert len(essence(text, {})) <= LONGEST


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--epochs", "3"], "--epochs 3; did you mean trainer.epochs?; see"),
        (["optim.lrr=3"], "did you mean optim.lr or"),
        (["optim.lr=abc"], "--optim.lr: Input should be a valid number, unable to parse string"),
        (["--data.shards", "x/" * 2500], " ... "),
        (["optim.name=lion"], "--optim.name: Expected adam or adamw or sgd. Got value: lion; see"),
        (["augment.mean=3"], "[a number, a number, a number]"),  # and null, in either order
        (
            ["data.resident=maybe"],
            "--data.resident: Expected true or false or auto. Got value: maybe",
        ),
    ],
)
def test_what_is_wrong_is_one_short_line_without_pydantics_notation(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "-c", "demo", *words]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert told in line
    assert len(line) <= LONGEST + 100
    assert "[type=" not in line


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("emotion,pixels,Usage\n" + "0,1 2 3,Training\n" * 10, "it has no keys; give it without"),
        ("0," + "1 2 3 " * 300_000, "it is too large; give it without -c if it is data"),
        ("a: [1,\n b: 2", "mine.yaml: line 3: did not find expected"),
        ("- 1", "it has no keys"),
        ("optim:\n  lrr: 2\n", "did you mean optim.lr or"),
        ("optim:\n  lr: [1]\n", "mine.yaml: --optim.lr: Input should be a valid number"),
    ],
)
def test_a_file_that_is_no_configuration_is_named_and_not_printed(
    content: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    assert main(["train", "-c", str(path)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert told in line and len(line) <= LONGEST + 100


def test_a_reader_that_has_seen_enough_ends_the_command_without_a_word() -> None:
    writer = subprocess.Popen(
        command(["shards", "sources"]), env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert writer.stdout is not None and writer.stderr is not None
    writer.stdout.close()
    with writer.stderr as stream:
        assert stream.read() == ""
    assert writer.wait() == 141
