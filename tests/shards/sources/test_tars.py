import functools
import http.server
from collections.abc import Iterator
from pathlib import Path

import pytest

from pattlite_dist import stores
from pattlite_dist.data.foreign import fetch_file
from pattlite_dist.shards.sources import tars
from pattlite_dist.shards.sources.base import Reading, Source
from pattlite_dist.shards.sources.registry import open_source
from tests.serving import serving
from tests.shards.sources.conftest import refused, write_tree
from tests.shards.sources.test_webshards import NAMES, samples, told, write_tar


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


def opened(where: str, reading: Reading | None = None) -> Source:
    return open_source(where, reading, fetch_file)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = write_tree(tmp_path / "wds", {"classnames.txt": NAMES})
    write_tar(folder / "train/0.tar", samples([0, 2, 1]))
    write_tar(folder / "train/1.tar", samples([1]))
    write_tar(folder / "test/0.tar", samples([2, 0]))
    return folder


@pytest.fixture
def address(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(stores, "_first_pause", 0.01)
    handler = functools.partial(_Quiet, directory=str(folder.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, serving(server):
        yield f"http://me:secret@127.0.0.1:{server.server_port}/wds"


def test_shards_come_over_http_with_the_names_of_their_classes(folder: Path, address: str) -> None:
    source = opened(f"{address}/{{train/0,train/1,test/0}}.tar")
    assert sorted(told(source)) == sorted(told(open_source(folder)))
    stamp = source.stamp()
    assert stamp == opened(f"{address}/{{train/0,train/1,test/0}}.tar").stamp()
    only_train = opened(f"{address}/train/{{0..1}}.tar?token=1")
    assert [file for file, *_ in told(only_train)][-1] == "train/1.tar/s0000000.png"
    assert only_train.cut == ("val", "test")


def test_what_is_not_there_is_refused_without_secrets(address: str) -> None:
    message = refused(lambda: opened(f"{address}/train/{{0..2}}.tar?token=hidden"), "2.tar")
    assert "secret" not in message and "hidden" not in message
    message = refused(lambda: opened(f"{address}/train"), "{000..014}.tar")
    assert "secret" not in message


def test_copies_are_removed_with_the_source(address: str) -> None:
    found = tars.named(f"{address}/train/0.tar", False, fetch_file)
    copy = found.shards[0].path
    assert copy.exists()
    del found
    assert not copy.exists()


def test_a_command_is_run_only_if_allowed(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    command = f"pipe:touch {mark}; cat {folder}/{{train/0,test/0}}.tar"
    message = refused(lambda: opened(command), "--allow-pipe", "pipe:touch ...")
    assert not mark.exists() and str(folder) not in message
    write_tar(folder / "train/0.tar", [(n.replace("cls", "txt"), b"cat") for n, _ in samples([1])])
    text = [(n.replace("cls", "txt"), b"cat" if "cls" in n else d) for n, d in samples([0, 0])]
    text[1] = (text[1][0], b"dog")
    for name in ("train/0.tar", "test/0.tar"):
        write_tar(folder / name, text)
    source = opened(command, Reading(allow_pipe=True))
    assert mark.exists() and [name for _, name, _ in told(source)] == ["dog", "cat", "dog", "cat"]
    assert "allow_pipe" not in Reading(allow_pipe=True).words()


def test_a_pattern_of_local_paths_names_a_missing_shard(folder: Path) -> None:
    refused(lambda: open_source(str(folder / "train/{0..2}.tar")), "train/2.tar")


@pytest.mark.parametrize("pattern", ["{0..99999999999}", "{0..9999}{0..9999}", "{000001..900000}"])
def test_patterns_of_too_many_shards_are_refused_at_once(pattern: str) -> None:
    refused(lambda: open_source(f"x/{pattern}.tar"), "more than 10,000")


def test_addresses_are_read_only_with_what_fetches_them() -> None:
    refused(lambda: open_source("https://host/0.tar"), "is not on this machine")


def test_braces_that_do_not_match_are_refused() -> None:
    refused(lambda: open_source("x/{0..1.tar"), "braces do not match")


def test_numbers_sort_as_numbers() -> None:
    names = ["a/b.tar", "10.tar", "a/2.tar", "9.tar", "a/10.tar"]
    assert sorted(names, key=tars.in_sequence) == [
        "9.tar", "10.tar", "a/2.tar", "a/10.tar", "a/b.tar",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train/0.tar", "test/0.tar"], ["test", "train"]),
        (["x-train-0.tar", "x-valid-0.tar", "x-test-0.tar"], ["test", "train", "val"]),
        (["my_test/0.tar", "my_test/1.tar"], [None, None]),
        (["my_test/train_0.tar", "my_test/1.tar"], [None, "train"]),
        (["0.tar", "1.tar"], [None, None]),
        (["train-test/0.tar", "val/0.tar"], [None, "val"]),
    ],
)
def test_splits_are_in_names_that_differ(
    tmp_path: Path, names: list[str], splits: list[str | None]
) -> None:
    paths = [write_tar(tmp_path / name, []) for name in names]
    found = [shard.split for shard in tars.local(paths, "x").shards]
    assert sorted(found, key=str) == sorted(splits, key=str)
