import contextlib
import functools
import http.server
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pattlite_dist.data import reader as reader_module
from pattlite_dist.data.reader import ShardReader, default_cache, fetch, fetch_manifest
from pattlite_dist.errors import UserError
from pattlite_dist.shards.manifest import ImageInfo, ShardInfo
from pattlite_dist.shards.tario import BLANK, LEAK, Block, decode_shard
from tests.conftest import ROOT
from tests.data.conftest import BLANK_VAL, LEAKED_TEST, SAMPLES, SPLITS, ShardSet, assert_is


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the shards that this process decodes, as it decodes them."""
    names: list[str] = []

    def spy(data: bytes, shard: ShardInfo, image: ImageInfo, where: str) -> Block:
        names.append(shard.name)
        return decode_shard(data, shard, image, where)

    monkeypatch.setattr(reader_module, "decode_shard", spy)
    return names


@settings(max_examples=50)
@given(st.sampled_from(SPLITS), st.data())
def test_gather_returns_the_sources_samples_in_the_order_asked_for(
    shard_set: ShardSet, cache: Path, split: str, data: st.DataObject
) -> None:
    name = next(s for s in SPLITS if s == split)
    places = st.integers(0, SAMPLES[name] - 1)
    ids = np.array(data.draw(st.lists(places, max_size=60)), np.int64)  # repeats and all
    assert_is(shard_set.reader(name, cache).gather(ids), shard_set.truth[name], ids)


def test_every_sample_of_every_split_comes_back_with_its_flags(
    shard_set: ShardSet, cache: Path
) -> None:
    for split in SPLITS:
        reader = shard_set.reader(split, cache)
        assert len(reader) == SAMPLES[split]
        ids = np.arange(len(reader))
        assert_is(reader.gather(ids), shard_set.truth[split], ids)
    flags = {s: shard_set.reader(s, cache).gather(np.arange(SAMPLES[s])).flags for s in SPLITS}
    assert np.flatnonzero(flags["val"] == BLANK).tolist() == [BLANK_VAL]
    assert np.flatnonzero(flags["test"] == LEAK).tolist() == [LEAKED_TEST]
    assert not flags["train"].any()


def test_colour_images_whose_bytes_do_not_align_come_back(
    colour_set: ShardSet, tmp_path: Path
) -> None:
    ids = np.array([10, 0, 3, 4, 7, 8, 10])
    for _ in range(2):  # decoded, then from the cache
        assert_is(colour_set.reader("train", tmp_path).gather(ids), colour_set.truth["train"], ids)


def test_what_was_gathered_can_be_written_to_without_touching_the_cache(
    shard_set: ShardSet, tmp_path: Path
) -> None:
    reader, ids = shard_set.reader("train", tmp_path), np.arange(20)
    block = reader.gather(ids)
    block.images[:] = 0
    block.labels[:] = 0
    assert_is(reader.gather(ids), shard_set.truth["train"], ids)


def test_a_split_without_shards_is_empty(colour_set: ShardSet, tmp_path: Path) -> None:
    reader = colour_set.reader("val", tmp_path)
    assert len(reader) == 0
    assert reader.gather(np.empty(0, np.int64)).images.shape == (0, 3, 5, 7)


def test_only_the_shards_that_are_needed_are_decoded_and_each_only_once(
    shard_set: ShardSet, tmp_path: Path, decoded: list[str]
) -> None:
    reader = shard_set.reader("train", tmp_path)
    reader.gather(np.array([0, 1, 99, 0]))
    assert decoded == ["train-000000.tar", "train-000006.tar"]
    reader.gather(np.arange(16))
    # A second reader, as of another rank or a later run, finds them in the cache.
    other = shard_set.reader("train", tmp_path).gather(np.array([2, 98]))
    assert_is(other, shard_set.truth["train"], np.array([2, 98]))
    assert len(decoded) == 2
    shard_set.reader("train", tmp_path).gather(np.array([16]))
    assert decoded[2:] == ["train-000001.tar"]


@pytest.mark.parametrize("left", [0, 1, -1])
def test_a_cut_off_cache_entry_is_made_again(
    shard_set: ShardSet, tmp_path: Path, decoded: list[str], left: int
) -> None:
    ids = np.arange(16)
    shard_set.reader("train", tmp_path).gather(ids)
    (entry,) = tmp_path.glob("*.block")
    entry.write_bytes(entry.read_bytes()[:left])
    assert_is(shard_set.reader("train", tmp_path).gather(ids), shard_set.truth["train"], ids)
    assert decoded == ["train-000000.tar"] * 2


def test_a_changed_shard_is_another_cache_entry(
    shard_set: ShardSet, colour_set: ShardSet, tmp_path: Path
) -> None:
    for shards in (shard_set, colour_set, shard_set):
        ids = np.arange(11)
        assert_is(shards.reader("train", tmp_path).gather(ids), shards.truth["train"], ids)
    assert len(list(tmp_path.glob("*.block"))) == 4  # one grey shard, three in colour


def test_a_pickled_reader_leaves_its_maps_behind_and_opens_its_own(
    shard_set: ShardSet, tmp_path: Path, decoded: list[str]
) -> None:
    reader, ids = shard_set.reader("train", tmp_path), np.arange(100)
    fresh = len(pickle.dumps(reader))
    reader.gather(ids)
    data = pickle.dumps(reader)
    assert len(data) == fresh  # not the pixels
    decoded.clear()
    copy: ShardReader = pickle.loads(data)
    assert_is(copy.gather(ids), shard_set.truth["train"], ids)
    assert_is(reader.gather(ids), shard_set.truth["train"], ids)
    assert decoded == []


# Runs as a process of its own. Decoding is slowed down, so that the processes meet at the lock.
_CHILD = """
import pathlib, sys, time
import numpy as np
from pattlite_dist.data import reader as module
root, cache, ready, go, log, result = map(pathlib.Path, sys.argv[1:])
reader = module.ShardReader(str(root), module.fetch_manifest(str(root)), "train", cache)
decode = module.decode_shard
def slow(data, shard, image, where):
    with log.open("a") as stream:
        stream.write(shard.name + "\\n")
    time.sleep(0.3)
    return decode(data, shard, image, where)
module.decode_shard = slow
ready.touch()
while not go.exists():
    time.sleep(0.002)
block = reader.gather(np.arange(32))
np.savez(result, images=block.images, labels=block.labels, flags=block.flags)
"""


def test_processes_that_want_the_same_shard_decode_it_once_and_all_get_it_right(
    shard_set: ShardSet, tmp_path: Path
) -> None:
    go, log = tmp_path / "go", tmp_path / "log"
    ready = [tmp_path / f"ready{i}" for i in range(2)]
    results = [tmp_path / f"result{i}.npz" for i in range(2)]
    children = [
        subprocess.Popen(
            [sys.executable, "-c", _CHILD]
            + [str(p) for p in (shard_set.folder, tmp_path / "cache", mark, go, log, result)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )
        for mark, result in zip(ready, results, strict=True)
    ]
    deadline = time.monotonic() + 120
    while not all(mark.exists() for mark in ready) and time.monotonic() < deadline:
        time.sleep(0.01)
    go.touch()
    assert [child.wait(120) for child in children] == [0, 0]
    for result in results:
        with np.load(result) as arrays:
            block = Block(arrays["images"], arrays["labels"], arrays["flags"])
        assert_is(block, shard_set.truth["train"], np.arange(32))
    assert sorted(log.read_text().split()) == ["train-000000.tar", "train-000001.tar"]


@pytest.fixture
def copied(shard_set: ShardSet, tmp_path: Path) -> Path:
    """A copy of the shards that a test may break."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in shard_set.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def read_all(root: str, cache: Path, allow_pipe: bool = False) -> Block:
    manifest = fetch_manifest(root, allow_pipe)
    return ShardReader(root, manifest, "train", cache, allow_pipe).gather(np.arange(100))


def test_a_missing_shard_is_named(copied: Path, tmp_path: Path) -> None:
    (copied / "train-000002.tar").unlink()
    with pytest.raises(UserError, match=r"copy/train-000002\.tar is missing"):
        read_all(str(copied), tmp_path / "cache")


@pytest.mark.parametrize("kind", ["flipped", "shortened", "emptied", "folder"])
def test_a_corrupted_shard_is_named_and_leaves_nothing_in_the_cache(
    copied: Path, tmp_path: Path, kind: str
) -> None:
    path, data = copied / "train-000000.tar", (copied / "train-000000.tar").read_bytes()
    if kind == "flipped":
        path.write_bytes(data[:1000] + bytes([data[1000] ^ 1]) + data[1001:])
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(data[: len(data) // 2] if kind == "shortened" else b"")
    with pytest.raises(UserError, match=r"copy/train-000000\.tar.*; \w+"):
        read_all(str(copied), tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.block"))


def test_a_cache_that_cannot_be_used_is_the_users_error(
    shard_set: ShardSet, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    # Root may write anywhere; a folder in the lock's place stands for one that is not writable.
    locked = tmp_path / f"{shard_set.manifest.shards['train'][0].sha256}.lock"
    locked.mkdir()
    for cache in (tmp_path / "file", tmp_path / "file" / "below", tmp_path):
        with pytest.raises(UserError, match=r"cannot use the cache folder .*set data\.cache"):
            shard_set.reader("train", cache).gather(np.array([0]))


def test_the_cache_is_the_schedulers_folder_where_it_gives_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SLURM_TMPDIR", "/scratch/job7")
    assert default_cache() == Path(f"/scratch/job7/pattlite-cache-{os.getuid()}")
    monkeypatch.delenv("SLURM_TMPDIR")
    monkeypatch.setattr("tempfile.tempdir", "/var/elsewhere")
    assert default_cache() == Path(f"/var/elsewhere/pattlite-cache-{os.getuid()}")


def test_a_default_cache_that_somebody_else_made_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_TMPDIR", str(tmp_path))
    stranger = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: stranger)
    assert default_cache() == tmp_path / f"pattlite-cache-{stranger}"
    default_cache().mkdir()
    with pytest.raises(UserError, match=f"pattlite-cache-{stranger} belongs to another user"):
        default_cache()


def test_a_pipe_is_refused_unless_allowed(shard_set: ShardSet, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    root = f"pipe:touch {mark}; cat {shard_set.folder}/{{name}}"
    with pytest.raises(UserError, match=r"would run a shell command.*data\.allow_pipe=true"):
        fetch_manifest(root)
    with pytest.raises(UserError, match="would run a shell command"):
        ShardReader(root, shard_set.manifest, "train", tmp_path / "c").gather(np.array([0]))
    assert not mark.exists()


def test_an_allowed_pipe_is_read(shard_set: ShardSet, tmp_path: Path) -> None:
    block = read_all(f"pipe:cat {shard_set.folder}/{{name}}", tmp_path / "cache", allow_pipe=True)
    assert_is(block, shard_set.truth["train"], np.arange(100))


def test_a_pipe_may_hold_the_shells_own_braces(
    shard_set: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARDS", str(shard_set.folder))
    root = "pipe:{ cat ${SHARDS}/{name}; }"
    assert fetch_manifest(root, allow_pipe=True) == shard_set.manifest
    block = read_all(root, tmp_path / "cache", allow_pipe=True)
    assert_is(block, shard_set.truth["train"], np.arange(100))


def test_a_pipe_that_fails_is_the_users_error(shard_set: ShardSet, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot fetch pipe:exit 3"):
        fetch("pipe:exit 3 # {name}", "train-000000.tar", allow_pipe=True)
    # A command that stops half-way and says all is well is caught by the manifest.
    root = f"pipe:head -c 5000 {shard_set.folder}/{{name}}"
    reader = ShardReader(root, shard_set.manifest, "train", tmp_path / "c", allow_pipe=True)
    with pytest.raises(UserError, match=r"train-000000\.tar has 5000 bytes"):
        reader.gather(np.array([0]))


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_shards_and_manifest_come_over_http(shard_set: ShardSet, tmp_path: Path) -> None:
    with served(shard_set.folder.parent) as address:
        for slash in ("", "/"):
            root = f"{address}/{shard_set.folder.name}{slash}"
            assert fetch_manifest(root) == shard_set.manifest
            block = read_all(root, tmp_path / f"cache{slash and 1}")
            assert_is(block, shard_set.truth["train"], np.arange(100))


def test_what_the_server_does_not_have_is_named(copied: Path, tmp_path: Path) -> None:
    (copied / "train-000001.tar").unlink()
    with served(copied) as address:
        with pytest.raises(UserError, match=f"cannot fetch {address}/none/manifest.json"):
            fetch_manifest(f"{address}/none")
        with pytest.raises(UserError, match=f"cannot fetch {address}/train-000001.tar"):
            read_all(address, tmp_path / "cache")


def test_a_server_that_answers_something_else_is_caught(copied: Path, tmp_path: Path) -> None:
    (copied / "train-000000.tar").write_text("<html>please log in</html>")
    with served(copied) as address:
        with pytest.raises(UserError, match=r"train-000000\.tar has 26 bytes"):
            read_all(address, tmp_path / "cache")
        (copied / "manifest.json").write_text("<html>please log in</html>")
        with pytest.raises(UserError, match=f"{address}/manifest.json is not JSON"):
            fetch_manifest(address)
