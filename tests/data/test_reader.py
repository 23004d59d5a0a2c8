import logging
import os
import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pattlite_dist.data import reader as reader_module
from pattlite_dist.data.cache import Cache
from pattlite_dist.data.fetch import Origin
from pattlite_dist.data.reader import ShardReader, check_targets
from pattlite_dist.data.room import Locks
from pattlite_dist.data.settings import DataConfig
from pattlite_dist.errors import UserError
from pattlite_dist.shards.tario import BLANK, LEAK
from tests.conftest import ROOT
from tests.data.conftest import (
    BLANK_VAL,
    LEAKED_TEST,
    SAMPLES,
    SPLITS,
    ShardSet,
    assert_is,
    read_all,
)
from tests.data.soft import Targets, with_targets


@settings(max_examples=50)
@given(st.sampled_from(SPLITS), st.data())
def test_gather_returns_the_sources_samples_in_the_order_asked_for(
    shard_set: ShardSet, cache: Path, split: str, data: st.DataObject
) -> None:
    name = next(s for s in SPLITS if s == split)
    places = st.integers(0, SAMPLES[name] - 1)
    ids = np.array(data.draw(st.lists(places, max_size=60)), np.int64)  # including repeats
    assert_is(shard_set.reader(name, cache).gather(ids), shard_set.truth[name], ids)


def test_every_sample_of_every_split_comes_back_with_its_flags(
    shard_set: ShardSet, cache: Path
) -> None:
    for split in SPLITS:
        reader = shard_set.reader(split, cache)
        assert len(reader) == SAMPLES[split]
        ids = np.arange(len(reader))
        assert_is(reader.gather(ids), shard_set.truth[split], ids)
    flags = {
        s: shard_set.reader(s, cache).gather(np.arange(SAMPLES[s])).block.flags for s in SPLITS
    }
    assert np.flatnonzero(flags["val"] & BLANK).tolist() == [BLANK_VAL]
    assert np.flatnonzero(flags["test"] & LEAK).tolist() == [LEAKED_TEST]
    assert not (flags["train"] & (BLANK | LEAK)).any()


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
    block, _ = reader.gather(ids)
    block.images[:] = 0
    block.labels[:] = 0
    assert_is(reader.gather(ids), shard_set.truth["train"], ids)


def test_a_split_without_shards_is_empty(colour_set: ShardSet, tmp_path: Path) -> None:
    reader = colour_set.reader("val", tmp_path)
    assert len(reader) == 0
    assert reader.gather(np.empty(0, np.int64)).block.images.shape == (0, 3, 5, 7)


def test_only_the_shards_that_are_needed_are_decoded_and_each_only_once(
    shard_set: ShardSet, tmp_path: Path, decoded: list[str]
) -> None:
    reader = shard_set.reader("train", tmp_path)
    reader.gather(np.array([0, 1, 99, 0]))
    assert decoded == ["train-000000.tar", "train-000006.tar"]
    reader.gather(np.arange(16))
    # A second reader, like that of another rank or a later run, finds them in the cache.
    other = shard_set.reader("train", tmp_path).gather(np.array([2, 98]))
    assert_is(other, shard_set.truth["train"], np.array([2, 98]))
    assert len(decoded) == 2
    shard_set.reader("train", tmp_path).gather(np.array([16]))
    assert decoded[2:] == ["train-000001.tar"]


def test_a_changed_shard_is_another_cache_entry(
    shard_set: ShardSet, colour_set: ShardSet, tmp_path: Path
) -> None:
    for shards in (shard_set, colour_set, shard_set):
        ids = np.arange(11)
        assert_is(shards.reader("train", tmp_path).gather(ids), shards.truth["train"], ids)
    assert len(list(tmp_path.glob("*.block"))) == 4  # one grey shard, three in colour


@pytest.fixture(scope="module")
def soft(shard_set: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> tuple[ShardSet, Targets]:
    """The grey set, with a target for every sample."""
    return with_targets(shard_set, tmp_path_factory.mktemp("soft") / "set")


def test_targets_come_back_beside_all_else(
    soft: tuple[ShardSet, Targets], tmp_path: Path, decoded: list[str]
) -> None:
    shards, targets = soft
    ids = np.array([99, 0, 17, 16, 15, 17])
    for split in SPLITS:
        for _ in range(2):  # decoded, then from the cache
            reader = shards.reader(split, tmp_path)
            gathered = reader.gather(ids % len(reader))
            assert_is(gathered, shards.truth[split], ids % len(reader))
            assert gathered.block.targets is not None
            assert gathered.block.targets.dtype == np.float32
            assert gathered.block.targets.flags.writeable
            np.testing.assert_array_equal(
                gathered.block.targets, targets[split][ids % len(reader)], strict=True
            )
    assert len(decoded) == len(set(decoded))
    assert shards.reader("train", tmp_path).gather(np.empty(0, np.int64)).block.targets is not None


def test_where_the_set_has_no_targets_there_are_none(shard_set: ShardSet, cache: Path) -> None:
    assert shard_set.reader("train", cache).gather(np.arange(3)).block.targets is None


def test_votes_are_refused_of_shards_that_have_none(
    shard_set: ShardSet, soft: tuple[ShardSet, Targets]
) -> None:
    votes, labels = (DataConfig(shards="there", targets=name) for name in ("votes", "labels"))
    for data, shards in ((votes, soft[0]), (labels, soft[0]), (labels, shard_set)):
        check_targets(data, shards.manifest)
    with pytest.raises(UserError, match=r"^there has labels only, .*; create it with `--votes "):
        check_targets(votes, shard_set.manifest)


def test_a_targets_stand_in_for_a_shard_left_out_is_that_of_the_sample(
    soft: tuple[ShardSet, Targets], tmp_path: Path
) -> None:
    shards, targets = soft
    copy = shutil.copytree(shards.folder, tmp_path / "copy")
    (copy / "train-000002.tar").write_bytes(b"")
    cache = Cache(tmp_path / "cache")
    reader = ShardReader(Origin(str(copy)), shards.manifest, "train", cache, "skip")
    found = reader.gather(np.arange(32, 48)).block.targets
    assert found is not None
    np.testing.assert_array_equal(found, targets["train"][48:64])


def test_the_same_shard_has_another_entry_for_other_records(
    soft: tuple[ShardSet, Targets], tmp_path: Path, decoded: list[str]
) -> None:
    """The cache may hold records read without targets, or by a version with fewer flags."""
    shards, targets = soft
    options = shards.manifest.options.model_copy(update={"reading": {}})
    plain = shards.manifest.model_copy(update={"options": options})
    hard = ShardReader(Origin(str(shards.folder)), plain, "train", Cache(tmp_path))
    reader = shards.reader("train", tmp_path)
    shard, ids = reader.shards[0], np.arange(16)
    keys = {shard.sha256, hard.key(shard), reader.key(shard)}
    assert len(keys) == 3
    assert all(set(key) <= set("0123456789abcdef") for key in keys)
    # An entry of the older layout, which has the same size as a current one without targets.
    size = 16 * (48 * 48 + 8)
    Cache(tmp_path).open(shard.sha256, size, lambda: np.zeros(size, np.uint8))
    for _ in range(2):
        assert_is(hard.gather(ids), shards.truth["train"], ids)
        assert hard.gather(ids).block.targets is None
        gathered = reader.gather(ids)
        assert_is(gathered, shards.truth["train"], ids)
        np.testing.assert_array_equal(gathered.block.targets, targets["train"][ids])
    assert decoded == ["train-000000.tar"] * 2


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


@pytest.mark.parametrize("ids", [[-1], [0, 100], [5, -100, 5]])
def test_an_id_of_no_sample_is_refused(shard_set: ShardSet, cache: Path, ids: list[int]) -> None:
    with pytest.raises(IndexError, match="not in 0 to 99"):
        shard_set.reader("train", cache).gather(np.array(ids))


def test_few_maps_stay_open_and_pages_go_back_without_changing_a_pixel(
    shard_set: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "_MOST_OPEN", 2)
    monkeypatch.setattr(reader_module, "_TOUCHED", 1)  # release pages after every batch
    reader, truth = shard_set.reader("train", tmp_path), shard_set.truth["train"]
    chance = np.random.default_rng(0)
    for _ in range(20):
        ids = chance.permutation(100)[:40]
        assert_is(reader.gather(ids), truth, ids)
        assert len(reader._open) == 2
        assert reader._mapped == sum(map(len, reader._open.values()))


def test_a_bad_shard_is_left_out_where_asked_for_counted_and_named_once(
    shard_set: ShardSet, copied: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (copied / "train-000002.tar").write_bytes(b"")
    (copied / "train-000006.tar").unlink()  # the last one, of four samples
    reader = ShardReader(
        Origin(str(copied)), shard_set.manifest, "train", Cache(tmp_path / "cache"), "skip"
    )
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            block, good = reader.gather(np.arange(100))
            bad = np.r_[32:48, 96:100]
            assert np.flatnonzero(~good).tolist() == bad.tolist()
            truth = shard_set.truth["train"]
            np.testing.assert_array_equal(block.images[good], truth.images[good])
            # The next good shard's samples replace them; after the last shard comes the first.
            np.testing.assert_array_equal(block.images[32:48], truth.images[48:64])
            np.testing.assert_array_equal(block.labels[96:], truth.labels[:4])
    lines = [record.getMessage() for record in caplog.records]
    assert sorted(line.split("copy/")[1][:16] for line in lines) == [
        "train-000002.tar", "train-000006.tar",
    ]  # fmt: skip


def test_where_every_shard_is_bad_nothing_is_left_to_skip_to(
    shard_set: ShardSet, copied: Path, tmp_path: Path
) -> None:
    for path in copied.glob("train-*.tar"):
        path.unlink()
    cache = Cache(tmp_path / "cache")
    reader = ShardReader(Origin(str(copied)), shard_set.manifest, "train", cache, "skip")
    with pytest.raises(UserError, match=r"no shard of .*copy is good"):
        reader.gather(np.array([0]))


def test_a_cache_that_cannot_be_used_is_never_skipped(shard_set: ShardSet, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    origin, cache = Origin(str(shard_set.folder)), Cache(tmp_path / "file")
    reader = ShardReader(origin, shard_set.manifest, "train", cache, "skip")
    with pytest.raises(UserError, match=r"cannot use the cache folder .*set data\.cache"):
        reader.gather(np.array([0]))


# 120,000 samples, or four times as many, in blocks that are already cached.
_MEMORY = """
import pathlib, sys
import numpy as np
from pattlite_dist.data.cache import Cache
from pattlite_dist.data.fetch import Origin
from pattlite_dist.data.reader import ShardReader
from pattlite_dist.shards.manifest import Manifest
folder, shards = pathlib.Path(sys.argv[1]), int(sys.argv[2])
n, size = 4000, 48 * 48 + 8
info = lambda i: {"name": f"train-{i:06d}.tar", "samples": n, "bytes": 1, "sha256": f"{i:064x}",
                  "class_counts": [n, 0]}
manifest = Manifest.model_validate({
    "created_by": "", "source": {"kind": "", "name": "", "sha256": "", "rows": 1},
    "labels": ["a", "b"], "image": {"channels": 1, "height": 48, "width": 48},
    "samples_per_shard": n, "findings": {}, "shards": {"train": list(map(info, range(shards)))}})
cache = Cache(folder, limit=10**12)
reader, chance = ShardReader(Origin("nowhere"), manifest, "train", cache), np.random.default_rng(0)
for i, shard in enumerate(reader.shards):
    cache.open(reader.key(shard), n * size, lambda: np.full(n * size, i % 256, np.uint8))
def memory():
    status = dict(line.split(":") for line in open("/proc/self/status"))
    return int(status["VmRSS"].split()[0]) / 1024
before, most = memory(), 0
for _ in range(1500):
    ids = chance.integers(0, len(reader), 128)
    images = reader.gather(ids).block.images
    assert (images[:, 0, 0, 0] == ids // n % 256).all()
    most = max(most, memory())
print(most - before)
"""


@pytest.mark.slow
def test_a_ranks_memory_is_small_and_flat_in_the_size_of_the_data(tmp_path: Path) -> None:
    grown = []
    for shards in (30, 120):  # 277 MB and 1.1 GB
        done = subprocess.run(
            [sys.executable, "-c", _MEMORY, str(tmp_path), str(shards)],
            env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        grown.append(float(done.stdout))
    shutil.rmtree(tmp_path)
    assert max(grown) < 100
    assert abs(grown[1] - grown[0]) < 30


def test_ranks_share_the_making_of_shards_instead_of_waiting_for_each_other(
    shard_set: ShardSet, tmp_path: Path, decoded: list[str]
) -> None:
    reader, ids = shard_set.reader("train", tmp_path), np.arange(48)  # of three shards
    held, done = threading.Event(), threading.Event()
    bucket = shard_set.manifest.shards["train"][0].sha256[:2]

    def another_rank() -> None:
        with Locks(tmp_path).hold(bucket):
            held.set()
            while len(decoded) < 2 and not done.wait(0.01):
                pass

    other = threading.Thread(target=another_rank)
    other.start()
    held.wait(60)
    found = reader.gather(ids)
    done.set()
    other.join()
    assert_is(found, shard_set.truth["train"], ids)
    assert decoded == ["train-000001.tar", "train-000002.tar", "train-000000.tar"]
