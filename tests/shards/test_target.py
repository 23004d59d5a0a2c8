import json
import os
import pickle
import textwrap
from pathlib import Path

import pytest

from pattlite_dist.errors import UserError
from pattlite_dist.files import sha256_file
from pattlite_dist.shards.manifest import Manifest, ShardInfo
from pattlite_dist.shards.remote import Remote
from pattlite_dist.shards.target import Folder, open_target
from tests.conftest import on_small_disk
from tests.shards.conftest import snapshot

MANIFEST = Manifest.model_validate(
    {
        "created_by": "a test",
        "source": {"kind": "x", "name": "x", "sha256": "0" * 64, "rows": 2},
        "labels": ["a", "b"],
        "image": {"channels": 1, "height": 8, "width": 8},
        "samples_per_shard": 2,
        "shards": {},
        "findings": {},
    }
)


def finished(folder: Path, data: bytes, name: str = "train-000000.tar") -> tuple[Path, ShardInfo]:
    """A finished temporary file and the shard it should become."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.tmp"
    path.write_bytes(data)
    shard = ShardInfo(
        name=name, samples=2, bytes=len(data), sha256=sha256_file(path), class_counts=[1, 1]
    )
    return path, shard


@pytest.fixture
def target(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "a" / "out")


def test_what_has_a_scheme_is_an_address_and_all_else_a_folder(tmp_path: Path) -> None:
    assert open_target("out/of") == Folder(Path("out/of"))
    assert open_target(tmp_path) == Folder(tmp_path)
    assert open_target("s3://bucket/x") == Remote("s3://bucket/x")
    assert open_target("file:///x") == Remote("file:///x")


def test_tars_of_other_names_are_strange(target: Folder) -> None:
    assert target.strange_tars() == []
    names = ["0.tar", ".x.tar", "train-1.tar", "train-000000.tar", "x.tar.tmp", "tar"]
    target.path.mkdir(parents=True)
    for name in names:
        (target.path / name).write_bytes(b"")
    assert target.strange_tars() == [".x.tar", "0.tar", "train-1.tar"]
    assert target.shard_names() == ["train-000000.tar"]


@pytest.mark.parametrize("out", ["pipe:cat > {name}", "http://host/x", "https://ada:pw@host/x"])
def test_what_can_only_be_read_is_refused(out: str) -> None:
    with pytest.raises(UserError, match=r"can.* be written to|not written to one") as caught:
        open_target(out)
    assert "s3://bucket/folder" in str(caught.value)
    assert "pw" not in str(caught.value)


def test_an_address_with_a_query_is_refused_without_showing_it() -> None:
    with pytest.raises(UserError, match=r"cannot be written to s3://b/x, ") as caught:
        open_target("s3://b/x?signature=abc")
    assert "abc" not in str(caught.value)


def test_a_check_leaves_no_trace(target: Folder, tmp_path: Path) -> None:
    target.check()
    assert list(tmp_path.iterdir()) == []
    target.path.mkdir(parents=True)
    (target.path / "mine").write_text("mine")
    target.check()
    assert snapshot(tmp_path) == {"a/out/mine": b"mine"}


def test_a_file_in_the_way_is_the_users_error(target: Folder, tmp_path: Path) -> None:
    target.path.parent.mkdir()
    target.path.write_text("mine")
    with pytest.raises(UserError, match=r"a/out is a file; give a folder"):
        target.check()
    with pytest.raises(UserError, match=r"cannot write in .*: Not a directory"):
        Folder(target.path / "below").check()
    with pytest.raises(UserError, match=r"cannot write .*train-000000\.tar: "):
        target.place(*finished(tmp_path / "work", b"x"))
    assert target.path.read_text() == "mine"
    assert (tmp_path / "work" / "train-000000.tar.tmp").exists()


def test_a_folder_that_cannot_be_written_is_the_users_error() -> None:
    # Even root cannot write here.
    with pytest.raises(
        UserError, match=r"cannot write in /sys/kernel/new: .*choose a writable folder"
    ):
        Folder(Path("/sys/kernel/new")).check()


def test_work_lies_within_the_folder(target: Folder) -> None:
    assert target.work() == target.path / ".creating"


def test_a_shard_moves_to_its_name(target: Folder) -> None:
    temporary, shard = finished(target.work(), b"shard")
    before = temporary.stat().st_ino
    assert not target.holds(shard)
    target.place(temporary, shard)
    assert snapshot(target.path) == {"train-000000.tar": b"shard"}
    assert (target.path / shard.name).stat().st_ino == before  # moved, not copied
    assert target.holds(shard)


def test_a_shard_takes_the_place_of_another(target: Folder) -> None:
    target.place(*finished(target.work(), b"old"))
    target.place(*finished(target.work(), b"newer"))
    assert snapshot(target.path) == {"train-000000.tar": b"newer"}


def test_the_folder_is_flushed_after_a_move(
    target: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[Path] = []
    names = "/proc/self/fd"
    monkeypatch.setattr(os, "fsync", lambda fd: flushed.append(Path(names, str(fd)).readlink()))
    target.place(*finished(target.work(), b"x"))
    assert flushed == [target.path]


def test_only_the_very_bytes_are_held(target: Folder) -> None:
    temporary, shard = finished(target.work(), b"shard")
    target.place(temporary, shard)
    for wrong in (b"shart", b"shards", b""):
        (target.path / shard.name).write_bytes(wrong)
        assert not target.holds(shard)
    (target.path / shard.name).unlink()
    (target.path / shard.name).mkdir()
    assert not target.holds(shard)


def test_a_folder_in_the_place_of_a_shard_is_the_users_error(target: Folder) -> None:
    (target.path / "train-000000.tar").mkdir(parents=True)
    temporary, shard = finished(target.work(), b"x")
    with pytest.raises(UserError, match=r"cannot write .*train-000000\.tar: Is a directory"):
        target.place(temporary, shard)
    assert temporary.exists()


def test_a_temporary_file_that_somebody_removed_is_named(target: Folder) -> None:
    temporary, shard = finished(target.work(), b"x")
    temporary.unlink()
    with pytest.raises(UserError, match=r"000000\.tar\.tmp is missing"):
        target.place(temporary, shard)


def test_only_shards_are_listed(target: Folder) -> None:
    assert target.shard_names() == []
    target.path.mkdir(parents=True)
    shards = ["test-000000.tar", "train-000000.tar", "train-000010.tar", "val-1000000.tar"]
    others = [
        "manifest.json", "mine-000000.tar", "train-0.tar", ".train-000000.tar.x.tmp",
        "train-000000.tar.part", "train-000000.tar\n", "xtrain-000000.tar",
    ]  # fmt: skip
    for name in (*reversed(shards), *others):
        (target.path / name).touch()
    assert target.shard_names() == shards


def test_a_manifest_comes_back(target: Folder) -> None:
    assert target.manifest() is None
    target.save_manifest(MANIFEST)
    assert target.manifest() == MANIFEST
    (target.path / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match=r"manifest\.json: .*create the shards again"):
        target.manifest()


def test_files_are_removed_and_missing_ones_are_fine(target: Folder) -> None:
    target.remove(["manifest.json"])
    target.save_manifest(MANIFEST)
    target.place(*finished(target.work(), b"x"))
    target.place(*finished(target.work(), b"y", "val-000000.tar"))
    target.remove(["train-000000.tar", "train-000001.tar", "manifest.json"])
    assert snapshot(target.path) == {"val-000000.tar": b"y"}
    (target.path / "val-000001.tar").mkdir()
    with pytest.raises(UserError, match=r"cannot remove .*val-000001\.tar: Is a directory"):
        target.remove(["val-000001.tar"])


@pytest.mark.parametrize("out", ["here", "memory://there"])
def test_a_target_travels_to_other_processes(out: str) -> None:
    target = open_target(out)
    assert pickle.loads(pickle.dumps(target)) == target


OTHER_DISK = """
    import json, os, subprocess, sys
    from pathlib import Path
    from pattlite_dist.errors import UserError
    from pattlite_dist.shards.manifest import ShardInfo
    from pattlite_dist.shards.target import Folder

    disk, told = Path(sys.argv[1]), {}
    work, out = disk.parent / "work", Folder(disk)
    work.mkdir()
    assert work.stat().st_dev != disk.stat().st_dev

    def place(name, size):
        (work / name).write_bytes(bytes(size))
        info = dict(samples=1, bytes=size, sha256="0" * 64, class_counts=[1, 0])
        try:
            out.place(work / name, ShardInfo(name=name, **info))
        except UserError as error:
            told[name] = str(error)

    place("train-000000.tar", 10_000)
    place("train-000001.tar", 100_000)
    told["disk"] = {path.name: path.stat().st_size for path in disk.iterdir()}
    told["work"] = sorted(path.name for path in work.iterdir())
    subprocess.run(["mount", "-o", "remount,ro", "tmpfs", str(disk)], check=True)
    for what in (out.check, Folder(disk / "new").check, lambda: out.remove(["train-000000.tar"])):
        try:
            what()
        except UserError as error:
            told.setdefault("read-only", []).append(str(error))
    print(json.dumps(told))
"""


@pytest.mark.slow
def test_a_disk_that_is_another_or_full_or_read_only_gets_whole_shards_or_none(
    tmp_path: Path,
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    done = on_small_disk(disk, textwrap.dedent(OTHER_DISK))
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["disk"] == {"train-000000.tar": 10_000}
    assert told["work"] == ["train-000001.tar"]  # moved, or kept if that failed
    assert "000001.tar: No space left on device; free some space" in told["train-000001.tar"]
    assert "train-000000.tar" not in told
    assert [line.partition(": ")[2] for line in told["read-only"]] == 3 * [
        "Read-only file system; free some space or choose a writable folder"
    ]
