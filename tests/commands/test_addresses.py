"""An option that takes a path and no address refuses one, before anything is created."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pattlite_dist.cli import VERBS, main, parser_of
from pattlite_dist.compat.jsonargparse import actions, type_of
from pattlite_dist.config import Config, parse_config
from pattlite_dist.errors import UserError
from pattlite_dist.location import Place, is_bucket, refused, refused_in

ADDRESSES = [
    "s3://bucket/a", "gs://bucket", "az://c/a", "abfss://host/a", "http://host/a", "HTTPS://h/a",
    "pipe:cat a",
]  # fmt: skip


def only_paths(verb: str) -> Iterator[str]:
    """The options of a verb that take a path and no address; "" stands for a positional.

    The keys of a configuration are those of `train`.
    """
    for action in actions(parser_of(verb)):
        kind = type_of(action)
        paths = kind is Path or any(
            isinstance(p, Place) and p.schemes is not None for p in parts(kind)
        )
        if paths and ("." not in action.dest or verb == "train"):
            yield max(action.option_strings, key=len, default="")


def parts(kind: object) -> Iterator[object]:
    for part in (*getattr(kind, "__args__", ()), *getattr(kind, "__metadata__", ())):
        yield part
        yield from parts(part)


def required(verb: str, word: str) -> list[str]:
    """What a verb cannot do without, each as `word`."""
    words = []
    for action in actions(parser_of(verb)):
        if not action.option_strings:
            words.append(word)
        elif action.required:
            words += [max(action.option_strings, key=len), "1"]
    return words


@pytest.mark.parametrize("verb", list(VERBS))
def test_an_option_that_takes_a_path_refuses_an_address(
    verb: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for option in only_paths(verb):
        several = option == "--distill.teachers"
        given = [f"{option}={'[a,http://b/a]' if several else 'http://b/a'}"] if option else []
        assert main([*verb.split(), *required(verb, "1" if option else "http://b/a"), *given]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1, error
        assert "http://b/a is an address, which is not understood here; give a path; see" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize(
    "key", ["data.cache", "model.weights", "data.targets", "distill.teachers", "runs", "scratch"]
)
def test_an_address_in_a_file_is_refused_by_its_key_unless_it_is_understood(
    key: str, address: str
) -> None:
    if key in ("runs", "model.weights", "distill.teachers") and is_bucket(address):
        return
    part, _, name = key.partition(".")
    value = ["runs/a", address] if name == "teachers" else address
    with pytest.raises(UserError, match=f"^mine.yaml: {key}: .*; give a path$"):
        parse_config({part: {name: value} if name else value}, "mine.yaml")


@pytest.mark.parametrize("address", ADDRESSES[:-1])
def test_a_path_that_was_an_address_is_known(address: str) -> None:
    said = refused(Path(address), Path)
    assert said is not None
    assert said.startswith(f"{address} is")


def test_what_is_no_address_is_understood() -> None:
    config = Config.model_validate(
        {"data": {"shards": "s3://b/x", "cache": "a:/b"}, "model": {"weights": "pretrained:a"}}
    )
    assert refused_in(config) is None
    for path in ("a", "/a://b/c", "c:/a", "./a:b", "a=b/c", "a/s3:/b"):
        assert refused(Path(path), Path) is None, path


def test_a_login_is_not_repeated() -> None:
    said = refused(Path("https://ada:5ecret@host/x"), Path)
    assert said is not None
    assert "5ecret" not in said
    assert "https://host/x" in said


@pytest.mark.parametrize("verb", ["submit", "doctor"])
def test_a_job_has_no_run_in_a_bucket(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["-c", "demo", "--runs=s3://b/runs", "--profile", "one-gpu"]
    assert main([verb, *words]) == 2
    assert "only `pattlite train` can work with" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
