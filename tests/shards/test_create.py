import errno
import itertools
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from filelock import FileLock

from pattlite_dist.cli import main
from pattlite_dist.errors import UserError
from pattlite_dist.shards import create, reading, working
from pattlite_dist.shards.companions import COMPANION_NAMES
from pattlite_dist.shards.create import create_shards, rewrite
from pattlite_dist.shards.manifest import SPLIT_NAMES, Manifest, Options, load_manifest
from pattlite_dist.shards.png import decode_png
from pattlite_dist.shards.sources.base import Item, Source
from pattlite_dist.shards.sources.registry import open_source
from pattlite_dist.shards.verify import verify_shards
from tests.conftest import environment, on_small_disk
from tests.shards.conftest import (
    LEAKS,
    TEST_COUNTS,
    TINY_OPTIONS,
    TINY_PER_SHARD,
    TINY_SHARDS,
    TRAIN_BLANKS,
    TRAIN_COUNTS,
    VAL_BLANKS,
    VAL_COUNTS,
    face,
    snapshot,
    tiny_images,
    tiny_rows,
    write_csv,
)
from tests.shards.test_writer import kept, members
from tests.sources import ArraySource


def again(source: Source, out: Path, **other: Any) -> Manifest:
    """Create shards as for the tiny set, unless specified otherwise."""
    return create_shards(
        source, out, **{"samples_per_shard": TINY_PER_SHARD, "options": TINY_OPTIONS, **other}
    )


def times(folder: Path) -> dict[str, tuple[int, int]]:
    return {p.name: (p.stat().st_mtime_ns, p.stat().st_ino) for p in folder.iterdir()}


def other_source(folder: Path) -> Source:
    rows = [face(1), face(2, "PublicTest", 1), face(0, "PrivateTest", 3)]
    return open_source(write_csv(folder / "fer2013.csv", rows))


# Output


def test_the_folder_holds_shards_manifest_and_companions_only(tiny_shards: Path) -> None:
    names = {*TINY_SHARDS, "manifest.json", *COMPANION_NAMES}
    assert {path.name for path in tiny_shards.iterdir()} == names
    assert {s.name: s.samples for s in load_manifest(tiny_shards).all_shards()} == TINY_SHARDS


def test_the_manifest_tells_of_the_source_and_what_was_found(tiny_shards: Path) -> None:
    manifest = load_manifest(tiny_shards)
    nothing: dict[str, Any] = {
        "blank_rows": [], "near_blank_rows": [], "dropped_rows": [], "leaks": 0, "copies": 0,
        "conflicts": 0, "converted": 0,
    }  # fmt: skip
    labels = [row.emotion for row in tiny_rows()]
    torn = {row for copy, row in LEAKS.items() if labels[copy] != labels[row]}
    conflicts = [copy for copy, row in LEAKS.items() if row in torn]
    found = {name: findings.model_dump() for name, findings in manifest.findings.items()}
    assert found["train"] == {
        **nothing, "blank_rows": TRAIN_BLANKS, "dropped_rows": TRAIN_BLANKS, "conflicts": len(torn),
    }  # fmt: skip
    assert found["val"] == {
        **nothing, "blank_rows": VAL_BLANKS, "leaks": 1,
        "conflicts": sum(row < 32 for row in conflicts),
    }  # fmt: skip
    assert found["test"] == {
        **nothing,
        "leaks": 2,
        "conflicts": sum(row >= 32 for row in conflicts),
    }
    assert manifest.identical is not None
    assert manifest.identical.model_dump() == {
        "distinct": 37, "groups": 2, "copies": 3,
        "conflicting_groups": len(torn), "conflicting_samples": len(torn) + len(conflicts),
    }  # fmt: skip
    assert [manifest.class_counts(split) for split in SPLIT_NAMES] == [
        TRAIN_COUNTS, VAL_COUNTS, TEST_COUNTS
    ]  # fmt: skip
    assert (manifest.source.kind, manifest.source.rows) == ("fer2013-csv", 40)
    assert manifest.options == TINY_OPTIONS


def test_by_default_nothing_is_left_out(tiny_csv: Path, tmp_path: Path) -> None:
    manifest = create_shards(open_source(tiny_csv), tmp_path / "out")
    assert manifest == load_manifest(tmp_path / "out")
    assert [manifest.samples(split) for split in SPLIT_NAMES] == [24, 8, 8]
    assert manifest.findings["train"].blank_rows == TRAIN_BLANKS
    assert manifest.findings["train"].dropped_rows == []


@pytest.mark.parametrize("name", ["fer2013.csv.xz", "other-name.zip"])
def test_the_same_rows_give_the_same_bytes(tiny_shards: Path, tmp_path: Path, name: str) -> None:
    again(open_source(write_csv(tmp_path / name, tiny_rows())), tmp_path / "out")
    assert snapshot(tmp_path / "out") == snapshot(tiny_shards)


def test_a_reader_that_is_named_makes_the_set_that_is_made_without(
    tiny_csv: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    named = ["--source", "fer2013-csv", "--blanks", "drop", "--samples-per-shard", "5"]
    assert main(["shards", "create", str(tiny_csv), str(tmp_path / "out"), *named]) == 0
    manifest = load_manifest(tmp_path / "out")
    assert "kind" not in manifest.options.reading
    assert main(["shards", "create", str(tiny_csv), str(tmp_path / "out"), *named[2:]]) == 0
    assert load_manifest(tmp_path / "out") == manifest


@pytest.mark.parametrize("jobs", [2, 3])
def test_any_number_of_processes_gives_the_same_bytes(
    tiny_csv: Path, tiny_shards: Path, tmp_path: Path, jobs: int
) -> None:
    again(open_source(tiny_csv), tmp_path / "out", jobs=jobs)
    assert snapshot(tmp_path / "out") == snapshot(tiny_shards)


def test_the_size_of_a_shard_does_not_change_the_samples(
    tiny_csv: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    again(open_source(tiny_csv), tmp_path / "out", samples_per_shard=100)
    one = members(tmp_path / "out" / "train-000000.tar")
    three: dict[str, bytes] = {}
    for index in range(3):
        three |= members(tiny_shards / f"train-{index:06d}.tar")
    assert list(one.items()) == list(three.items())


# WebDataset leaves closing its files to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.parametrize(
    ("split", "url"),
    [
        ("train", "train-{000000..000002}.tar"),
        ("val", "val-000000.tar"),
        ("test", "test-000000.tar"),
    ],
)
def test_webdataset_itself_reads_the_shards(tiny_shards: Path, split: str, url: str) -> None:
    dataset = webdataset.WebDataset(str(tiny_shards / url), shardshuffle=False).decode("l8")
    samples = list(dataset)
    rows, images = tiny_rows(), tiny_images()
    assert [sample["__key__"] for sample in samples] == [f"{row:08d}" for row in kept(split)]
    for sample in samples:
        row = sample["json"]["row"]
        assert sample["png"].dtype == np.uint8
        np.testing.assert_array_equal(sample["png"], images[row][0], strict=True)
        assert sample["cls"] == int(rows[row].emotion)


def test_colour_images_of_another_shape_are_written_too(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 6, 8), dtype=np.uint8)
    source = ArraySource(images, [0, 1, 0], ["train", "train", "val"], ("cat", "dog"), cut=())
    manifest = create_shards(source, tmp_path / "out")
    assert manifest.image.shape == (3, 6, 8)
    assert manifest.class_counts("train") == [1, 1]
    assert manifest.shards["test"] == []
    assert verify_shards(tmp_path / "out") == (manifest, [])
    found = members(tmp_path / "out" / "train-000000.tar")
    for index in range(2):
        image = decode_png(found[f"{index:08d}.png"], manifest.image)
        np.testing.assert_array_equal(image, images[index], strict=True)


def test_progress_is_told_for_reading_and_writing(tiny_csv: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int | None]] = []
    again(
        open_source(tiny_csv), tmp_path / "out",
        progress=lambda what, done, total: told.append((what, done, total)),
    )  # fmt: skip
    reads = [done for what, done, _ in told if what == "read"]
    assert reads == sorted(reads) and reads[-1] == 40
    writes = [(done, total) for what, done, total in told if what == "write"]
    assert writes == [(10, 38), (20, 38), (22, 38), (30, 38), (38, 38)]


# Running the same command again


@pytest.mark.parametrize("name", ["fer2013.csv", "fer2013.csv.gz"])
def test_the_same_source_again_rewrites_nothing(
    shard_copy: Path, tmp_path: Path, name: str
) -> None:
    before, manifest = times(shard_copy), load_manifest(shard_copy)
    assert again(open_source(write_csv(tmp_path / name, tiny_rows())), shard_copy) == manifest
    assert times(shard_copy) == before


def test_another_version_that_writes_the_same_rewrites_nothing(
    shard_copy: Path, tiny_csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = times(shard_copy)
    monkeypatch.setattr(reading, "CREATED_BY", "pattlite_dist 99")
    again(open_source(tiny_csv), shard_copy)
    assert times(shard_copy) == before


@pytest.mark.parametrize("damage", ["gone", "cut off", "changed"])
def test_the_same_source_again_replaces_shards_that_are_not_whole(
    shard_copy: Path, tiny_csv: Path, damage: str
) -> None:
    content, before = snapshot(shard_copy), times(shard_copy)
    victim = shard_copy / "train-000001.tar"
    data = victim.read_bytes()
    if damage == "gone":
        victim.unlink()
    else:
        victim.write_bytes(data[:100] if damage == "cut off" else data[:-1] + b"x")
    again(open_source(tiny_csv), shard_copy)
    assert snapshot(shard_copy) == content
    assert {n for n, time in times(shard_copy).items() if time != before[n]} == {victim.name}


def test_another_source_is_refused_and_changes_nothing(shard_copy: Path, tmp_path: Path) -> None:
    before, content = times(shard_copy), snapshot(shard_copy)
    with pytest.raises(UserError, match=r"contains another shard set .*40 rows.*--force"):
        again(other_source(tmp_path), shard_copy)
    assert (times(shard_copy), snapshot(shard_copy)) == (before, content)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"samples_per_shard": TINY_PER_SHARD + 1}, "other samples_per_shard"),
        ({"options": Options(blanks="keep")}, "other options"),
    ],
)
def test_other_options_are_another_set(
    shard_copy: Path, tiny_csv: Path, other: dict[str, Any], told: str
) -> None:
    before = times(shard_copy)
    with pytest.raises(UserError, match=f"contains another shard set .*{told}"):
        again(open_source(tiny_csv), shard_copy, **other)
    assert times(shard_copy) == before


def test_shards_without_a_manifest_are_not_replaced_without_force(
    tiny_csv: Path, tmp_path: Path
) -> None:
    (tmp_path / "train-000000.tar").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"contains train-000000\.tar but no manifest; .*--force"):
        again(open_source(tiny_csv), tmp_path)
    assert snapshot(tmp_path) == {"train-000000.tar": b"mine"}


def test_an_unreadable_manifest_is_not_replaced_without_force(
    shard_copy: Path, tiny_csv: Path
) -> None:
    (shard_copy / "manifest.json").write_text("{")
    before = snapshot(shard_copy)
    with pytest.raises(UserError, match="not JSON"):
        again(open_source(tiny_csv), shard_copy)
    assert snapshot(shard_copy) == before


def test_force_replaces_the_set_and_removes_its_stale_shards(
    shard_copy: Path, tmp_path: Path
) -> None:
    mine = {"notes.txt", "mine-000000.tar", "train-1.tar", ".notes.tmp"}
    for name in mine:
        (shard_copy / name).write_text("mine")
    said: list[str] = []
    manifest = create_shards(other_source(tmp_path), shard_copy, force=True, say=said.append)
    assert manifest.source.rows == 3
    assert said[-1].startswith(f"{shard_copy} contains mine-000000.tar and 1 more tars of another")
    assert [problem for problem in verify_shards(shard_copy)[1] if problem.name] == []
    shards = {f"{split}-000000.tar" for split in SPLIT_NAMES}
    names = {*shards, "manifest.json", *COMPANION_NAMES, *mine}
    assert {path.name for path in shard_copy.iterdir()} == names


@pytest.mark.parametrize("name", ["0.tar", "fer2013-train-000000.tar", "train-1.tar", ".x.tar"])
def test_tars_of_another_program_are_refused_also_beside_a_finished_set(
    shard_copy: Path, tiny_csv: Path, tmp_path: Path, name: str
) -> None:
    for out in (tmp_path / "new", shard_copy):
        out.mkdir(exist_ok=True)
        (out / name).write_bytes(b"mine")
        before = snapshot(out)
        with pytest.raises(UserError, match=rf"contains {re.escape(name)} of another program; "):
            again(open_source(tiny_csv), out)
        assert snapshot(out) == before


def test_force_gives_the_same_bytes_as_a_new_folder(
    shard_copy: Path, tiny_csv: Path, tiny_shards: Path
) -> None:
    (shard_copy / "train-000001.tar").write_bytes(b"damaged")
    (shard_copy / "manifest.json").write_text("{")
    again(open_source(tiny_csv), shard_copy, force=True)
    assert snapshot(shard_copy) == snapshot(tiny_shards)


def test_temporary_files_of_a_killed_run_go(
    shard_copy: Path, tiny_csv: Path, tiny_shards: Path
) -> None:
    for name in (".manifest.json.ab12.tmp", ".train-000000.tar.x_y.tmp"):
        (shard_copy / name).write_text("half")
    again(open_source(tiny_csv), shard_copy)
    assert snapshot(shard_copy) == snapshot(tiny_shards)


# Invalid requests


@pytest.mark.parametrize("size", [0, -1])
def test_shards_of_no_samples_are_refused(tiny_csv: Path, tmp_path: Path, size: int) -> None:
    with pytest.raises(UserError, match=f"--samples-per-shard is {size}; give 1 or more"):
        create_shards(open_source(tiny_csv), tmp_path / "out", samples_per_shard=size)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_bad_row_leaves_no_folder(tmp_path: Path, jobs: int) -> None:
    source = open_source(
        write_csv(tmp_path / "fer2013.csv", [face(), face(), face()._replace(pixels="1 2")])
    )
    with pytest.raises(UserError, match="row 2"):
        create_shards(source, tmp_path / "deep" / "out", samples_per_shard=1, jobs=jobs)
    assert not (tmp_path / "deep").exists()


def test_a_bad_row_leaves_the_old_set_as_it_was_even_with_force(
    shard_copy: Path, tmp_path: Path
) -> None:
    before = times(shard_copy)
    source = open_source(write_csv(tmp_path / "fer2013.csv", [face(), face(9)]))
    with pytest.raises(UserError, match="row 1"):
        create_shards(source, shard_copy, samples_per_shard=1, force=True)
    assert times(shard_copy) == before


def test_a_source_without_samples_is_refused(tmp_path: Path) -> None:
    source = ArraySource(np.zeros((0, 1, 4, 4), np.uint8), [], [], ("cat", "dog"))
    with pytest.raises(UserError, match="has no samples"):
        create_shards(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("error", [UserError("it is gone; fix it"), KeyboardInterrupt()])
def test_a_source_that_goes_while_it_is_read_leaves_nothing(
    tmp_path: Path, error: BaseException
) -> None:
    class Vanishing(ArraySource):
        def items(self) -> Iterator[Item]:
            yield from itertools.islice(super().items(), 100)
            raise error

    images = np.zeros((200, 1, 4, 4), np.uint8)
    source = Vanishing(images, [0] * 200, ["train"] * 200, ("cat", "dog"))
    with pytest.raises(type(error)) as caught:
        create_shards(source, tmp_path / "deep" / "out")
    assert caught.value is error
    assert not (tmp_path / "deep").exists()


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_that_is_a_file_is_refused(tiny_csv: Path, tmp_path: Path, force: bool) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="out is a file; give a folder"):
        create_shards(open_source(tiny_csv), tmp_path / "out", force=force)
    assert (tmp_path / "out").read_text() == "mine"


def test_a_manifest_that_is_a_folder_is_refused(tiny_csv: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "manifest.json").mkdir(parents=True)
    with pytest.raises(UserError, match=r"cannot re.*manifest\.json"):
        create_shards(open_source(tiny_csv), tmp_path / "out")
    with pytest.raises(UserError, match=r"cannot re.*manifest\.json"):
        create_shards(open_source(tiny_csv), tmp_path / "out", force=True)
    assert (tmp_path / "out" / "manifest.json").is_dir()


def test_a_folder_that_cannot_be_written_is_one_line(tiny_csv: Path, tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from pattlite_dist.errors import UserError\n"
        "from pattlite_dist.shards.create import create_shards\n"
        "from pattlite_dist.shards.sources.registry import open_source\n"
        "try:\n"
        "    create_shards(open_source(pathlib.Path(sys.argv[1])), sys.argv[2])\n"
        "except UserError as error:\n"
        "    print(error)\n"
    )
    (tmp_path / "ro").mkdir()
    mount = 'mount -t tmpfs -o ro tmpfs "$0" && exec "$@"'
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, tmp_path / "ro",
         sys.executable, "-c", code, tiny_csv, tmp_path / "ro" / "out"],
        env=environment(), capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.count("\n") == 1 and "Read-only file system" in done.stdout


# Full disks, and recovery from them


class FullDisk:
    """Fails only the n-th flush to disk, and flushes nothing; `calls` counts all calls."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int) -> None:
        self.calls, self.at = 0, at
        patch.setattr(os, "fsync", self)

    def __call__(self, descriptor: int) -> None:
        self.calls += 1
        if self.calls == self.at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("force", [False, True])
def test_a_full_disk_at_any_moment_is_one_line_and_the_next_run_goes_on(
    tiny_csv: Path, tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # many runs, and no power failure
    expected, source = snapshot(tiny_shards), open_source(tiny_csv)
    other = tmp_path / "other"
    create_shards(other_source(tmp_path), other, samples_per_shard=1)
    unread = 0
    for call in itertools.count(1):
        out = tmp_path / f"out-{call}"
        if force:
            shutil.copytree(other, out)
        with monkeypatch.context() as patch:
            disk = FullDisk(patch, call)
            try:
                again(source, out, force=force)
                assert disk.calls < call
                break
            except UserError as error:
                assert "No space left on device; free some space" in str(error)
        planned = (out / ".creating" / "plan.json").exists()
        if force and not planned:
            assert snapshot(out) == snapshot(other)
        elif not planned:
            assert not out.exists()
        told: list[str] = []
        forced = force and (out / "manifest.json").exists()
        again(source, out, force=forced, progress=lambda what, *_, told=told: told.append(what))
        assert ("read" in told) != planned  # read again only if reading was not finished
        unread += planned
        assert snapshot(out) == expected
    assert call > 15 and unread > 10


def test_a_disk_too_small_is_one_line_and_leaves_nothing_in_part(
    tiny_csv: Path, tmp_path: Path
) -> None:
    code = (
        "import pathlib, sys\n"
        "from pattlite_dist.errors import UserError\n"
        "from pattlite_dist.shards.create import create_shards\n"
        "from pattlite_dist.shards.sources.registry import open_source\n"
        f"source = open_source(pathlib.Path({str(tiny_csv)!r}))\n"
        "out = pathlib.Path(sys.argv[1]) / 'out'\n"
        "try:\n"
        "    create_shards(source, out)\n"
        "except UserError as error:\n"
        "    print(error)\n"
        "print(out.exists())\n"
    )
    (tmp_path / "disk").mkdir()
    done = on_small_disk(tmp_path / "disk", code)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert "pixels-" in first and "No space left on device; free some space or choose" in first
    assert second == "False"


def test_a_finished_spool_that_is_cut_off_is_read_again(
    tiny_csv: Path, tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(tiny_csv)
    with monkeypatch.context() as patch:
        patch.setattr(create, "_write", _full)
        with pytest.raises(UserError, match="full"):
            again(source, tmp_path / "out")
    (spool,) = (tmp_path / "out" / ".creating").glob("pixels-*.raw")
    os.truncate(spool, spool.stat().st_size - 1)
    again(source, tmp_path / "out")
    assert snapshot(tmp_path / "out") == snapshot(tiny_shards)


def _full(*_: Any) -> Any:
    raise UserError("full; fix it")


def _unfinished(source: Source, out: Path, monkeypatch: pytest.MonkeyPatch, **other: Any) -> None:
    """Fail after two shards."""
    write_shard: Callable[..., Any] = create.write_shard
    calls = itertools.count(1)

    def failing(*arguments: Any) -> Any:
        return write_shard(*arguments) if next(calls) < 3 else _full()

    with monkeypatch.context() as patch:
        patch.setattr(create, "write_shard", failing)
        with pytest.raises(UserError, match="full"):
            again(source, out, **other)


def test_an_unfinished_set_is_no_set_and_not_mixed_with_another(
    tiny_csv: Path, tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    _unfinished(open_source(tiny_csv), out, monkeypatch)
    before = snapshot(out)
    with pytest.raises(UserError, match="not a finished shard set"):
        load_manifest(out)
    for source, options in (
        (other_source(tmp_path), TINY_OPTIONS),
        (open_source(tiny_csv), Options()),
    ):
        with pytest.raises(UserError, match="unfinished conversion of another source"):
            again(source, out, options=options)
        assert snapshot(out) == before
    placed = times(out)["train-000001.tar"]
    again(open_source(tiny_csv), out)
    assert snapshot(out) == snapshot(tiny_shards)
    assert times(out)["train-000001.tar"] == placed


def test_a_set_half_replaced_does_not_pass_for_a_set_and_is_finished_without_force(
    shard_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = list(reversed(tiny_rows()))
    source = open_source(write_csv(tmp_path / "fer2013.csv", rows))
    _unfinished(source, shard_copy, monkeypatch, force=True)
    with pytest.raises(UserError, match="not a finished shard set"):
        load_manifest(shard_copy)
    manifest = again(source, shard_copy)
    assert verify_shards(shard_copy) == (manifest, [])
    again(source, tmp_path / "anew")
    assert snapshot(shard_copy) == snapshot(tmp_path / "anew")


# Working folders


def test_a_second_process_is_refused(tiny_csv: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / ".creating").mkdir(parents=True)
    (out / ".creating" / "pixels-1.raw").write_text("of the first")
    with FileLock(out / ".creating" / "lock"):
        before = snapshot(out)
        for work in (None, tmp_path / "elsewhere"):
            started = time.monotonic()
            with pytest.raises(UserError, match="another process is writing shards into"):
                again(open_source(tiny_csv), out, work=work)
            assert time.monotonic() - started < 60  # it does not wait
            assert snapshot(out) == before


def test_a_working_folder_of_the_user_keeps_what_else_lies_in_it(
    tiny_csv: Path, tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, out = tmp_path / "work", tmp_path / "out"
    (work / "photos").mkdir(parents=True)
    (work / "photos" / "me.jpg").write_text("mine")
    (work / "plan.json").write_text("mine")
    before = snapshot(work)
    _unfinished(open_source(tiny_csv), out, monkeypatch, work=work)
    assert len(snapshot(work)) > len(before)
    again(open_source(tiny_csv), out, work=work)
    assert snapshot(work) == before
    assert snapshot(out) == snapshot(tiny_shards)


def test_a_working_folder_made_for_one_set_goes_with_it(tiny_csv: Path, tmp_path: Path) -> None:
    again(open_source(tiny_csv), tmp_path / "out", work=tmp_path / "deep" / "work")
    assert not (tmp_path / "deep").exists()
    assert not (tmp_path / "out" / ".creating").exists()


def test_two_sets_may_share_a_working_folder(
    tiny_csv: Path, tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    for name in ("a", "b"):
        _unfinished(open_source(tiny_csv), tmp_path / name, monkeypatch, work=work)
    for name in ("a", "b"):
        told: list[str] = []
        again(
            open_source(tiny_csv), tmp_path / name, work=work,
            progress=lambda what, *_, told=told: told.append(what),
        )  # fmt: skip
        assert "read" not in told
        assert snapshot(tmp_path / name) == snapshot(tiny_shards)


def test_a_working_folder_that_cannot_be_made_is_one_line(tiny_csv: Path, tmp_path: Path) -> None:
    (tmp_path / "work").write_text("mine")
    with pytest.raises(UserError, match=r"cannot write .*work.*choose a writable folder"):
        again(open_source(tiny_csv), tmp_path / "deep" / "out", work=tmp_path / "work")
    assert not (tmp_path / "deep").exists()


# Repair


def test_rewrite_gives_the_named_shards_and_leaves_the_others(
    shard_copy: Path, tiny_csv: Path, tiny_shards: Path
) -> None:
    for name in ("train-000001.tar", "val-000000.tar"):
        (shard_copy / name).write_bytes(b"damaged")
    rewrite(open_source(tiny_csv), shard_copy, ["train-000001.tar"], 1)
    changed = {
        name for name, data in snapshot(shard_copy).items() if snapshot(tiny_shards)[name] != data
    }
    assert changed == {"val-000000.tar"}


def test_rewrite_refuses_another_source_and_changes_nothing(
    shard_copy: Path, tmp_path: Path
) -> None:
    before = times(shard_copy)
    with pytest.raises(UserError, match="use the source and version that created it"):
        rewrite(other_source(tmp_path), shard_copy, ["train-000001.tar"], 1)
    assert times(shard_copy) == before


def test_shards_of_other_bytes_than_the_manifest_says_are_not_placed(
    shard_copy: Path, tiny_csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shard_copy / "train-000001.tar").unlink()
    before = snapshot(shard_copy)
    write_shard: Callable[..., Any] = create.write_shard

    def otherwise(path: Path, *rest: Any) -> Any:
        shard = write_shard(path, *rest)
        return shard.model_copy(update={"sha256": "0" * 64})

    monkeypatch.setattr(create, "write_shard", otherwise)
    with pytest.raises(UserError, match="this version writes bytes that differ"):
        rewrite(open_source(tiny_csv), shard_copy, ["train-000001.tar"], 1)
    assert snapshot(shard_copy) == before


def test_the_plan_goes_first_when_a_working_folder_is_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", working.PLAN_NAME, "lock", "z"):
        (tmp_path / name).write_text("x")
    gone: list[str] = []
    unlink = Path.unlink
    monkeypatch.setattr(
        Path, "unlink", lambda path, **how: (gone.append(path.name), unlink(path, **how))
    )
    working.clear(tmp_path)
    assert gone[0] == working.PLAN_NAME
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
