import hashlib
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
import s3fs

from pattlite_dist import stores
from pattlite_dist.data.cache import Cache
from pattlite_dist.data.fetch import Origin, fetch_manifest
from pattlite_dist.data.reader import ShardReader
from pattlite_dist.errors import UserError
from pattlite_dist.shards.manifest import ImageInfo, ShardInfo
from pattlite_dist.shards.remote import Remote
from pattlite_dist.shards.target import Folder, Target
from pattlite_dist.shards.writer import Sample, write_shard
from tests.shards.conftest import snapshot
from tests.shards.s3_server import S3Server, new_bucket, s3_clients, s3_environment, s3_server
from tests.shards.test_target import MANIFEST, finished


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as running, s3_clients(**s3_environment(running)):
        yield running


@pytest.fixture
def s3(server: S3Server) -> str:
    """The address of an empty bucket."""
    return f"s3://{new_bucket(server)}"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "_first_pause", 0.01)


@pytest.fixture(params=["s3", "memory", "file"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Remote]:
    """An empty place of each kind; uploads to the third are not atomic by themselves."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    if request.param == "s3":
        yield Remote(f"{request.getfixturevalue('s3')}/sets/faces/")
    else:
        place = "bucket/sets" if request.param == "memory" else f"{tmp_path}/sets"
        yield Remote(f"{request.param}://{place}/faces")
    memory.store.clear()


def lying_at(target: Remote) -> dict[str, bytes]:
    """Every file there with its bytes, read without the code under test."""
    store, root = fsspec.core.url_to_fs(target.address)
    store.invalidate_cache()
    names = store.find(root)
    return {name.removeprefix(root).strip("/"): store.cat_file(name) for name in names}


def test_shards_and_manifest_lie_there_and_the_temporary_file_does_not(
    target: Remote, tmp_path: Path
) -> None:
    target.check()
    assert target.manifest() is None
    assert target.shard_names() == []
    assert lying_at(target) == {}  # a check leaves no trace
    temporary, shard = finished(tmp_path / "work", b"shard")
    assert not target.holds(shard)
    target.place(temporary, shard)
    target.place(*finished(tmp_path / "work", b"another", "test-000000.tar"))
    assert target.holds(shard)
    assert not target.holds(shard.model_copy(update={"bytes": 6}))
    assert list((tmp_path / "work").iterdir()) == []
    target.save_manifest(MANIFEST)
    assert target.shard_names() == ["test-000000.tar", "train-000000.tar"]
    assert target.manifest() == MANIFEST
    MANIFEST.save(tmp_path)
    assert lying_at(target) == {
        "manifest.json": (tmp_path / "manifest.json").read_bytes(),
        "test-000000.tar": b"another",
        "train-000000.tar": b"shard",
    }


def test_what_lies_there_is_replaced_and_removed(target: Remote, tmp_path: Path) -> None:
    target.check()
    for data in (b"first", b"second"):
        temporary, shard = finished(tmp_path / "work", data)
        target.place(temporary, shard)
        assert target.holds(shard)
    target.save_manifest(MANIFEST)
    target.remove(["train-000001.tar", "manifest.json"])
    assert lying_at(target) == {"train-000000.tar": b"second"}
    assert target.manifest() is None
    target.remove(iter(["train-000000.tar"]))
    assert not target.holds(shard)


def test_what_others_have_done_since_counts(target: Remote, tmp_path: Path) -> None:
    target.check()
    temporary, shard = finished(tmp_path / "work", b"shard")
    target.place(temporary, shard)
    target.place(*finished(tmp_path / "work", b"x", "val-000000.tar"))
    assert target.shard_names() == [shard.name, "val-000000.tar"]
    assert target.strange_tars() == []
    # Another instance does not share this one's cache, as if it were in another process.
    root = fsspec.core.url_to_fs(target.address)[1]
    others = fsspec.filesystem(target.address.partition(":")[0], skip_instance_cache=True)
    others.rm_file(f"{root}/{shard.name}")
    assert target.shard_names() == ["val-000000.tar"]
    others.pipe_file(f"{root}/0.tar", b"of another program")
    assert target.strange_tars() == ["0.tar"]
    others.pipe_file(f"{root}/{shard.name}", b"shard")
    assert target.holds(shard)


def test_a_manifest_that_is_none_is_the_users_error(target: Remote) -> None:
    target.check()
    store, root = fsspec.core.url_to_fs(target.address)
    store.pipe_file(f"{root}/manifest.json", b"<html>")
    with pytest.raises(UserError, match=r"faces/manifest\.json is not JSON"):
        target.manifest()


def test_a_folder_in_the_place_of_a_shard_is_not_that_shard(target: Remote) -> None:
    target.check()
    store, root = fsspec.core.url_to_fs(target.address)
    if not target.address.startswith("s3"):
        store.makedirs(f"{root}/train-000000.tar")
    store.pipe_file(f"{root}/train-000000.tar/x", b"x")
    size = store.info(f"{root}/train-000000.tar")["size"] or 1  # a folder on disk has one
    shard = ShardInfo(
        name="train-000000.tar", samples=1, bytes=size, sha256="0" * 64, class_counts=[1, 0]
    )
    assert not target.holds(shard)


def test_a_whole_set_in_a_bucket_is_byte_for_byte_a_local_one_and_can_be_read(
    s3: str, server: S3Server, tmp_path: Path
) -> None:
    random = np.random.default_rng(3)
    images = random.integers(0, 256, (10, 1, 8, 8), np.uint8)
    sets: list[Target] = [Folder(tmp_path / "local"), Remote(f"{s3}/faces")]
    for target in sets:
        shards = []
        for number in range(2):
            name, work = f"train-{number:06d}.tar", tmp_path / "work"
            rows = np.arange(5 * number, 5 * number + 5)
            flags = {"blank": False, "leak": False}
            samples = [Sample(row % 2, {"row": row, **flags}) for row in rows.tolist()]
            shards.append(write_shard(work / name, name, images[rows], samples, classes=2))
            target.place(work / name, shards[-1])
        image = ImageInfo(channels=1, height=8, width=8)
        made = {"shards": {"train": shards}, "image": image}
        target.save_manifest(MANIFEST.model_copy(update=made))
    assert lying_at(Remote(f"{s3}/faces")) == snapshot(tmp_path / "local")
    assert server.asked["PUT train-000000.tar"] == server.asked["PUT manifest.json"] == 1

    origin = Origin(f"{s3}/faces", retries=0)
    manifest = fetch_manifest(origin)
    reader = ShardReader(origin, manifest, "train", Cache(tmp_path / "cache"))
    found = reader.gather(np.arange(10))
    assert np.array_equal(found.block.images, images)
    assert found.block.labels.tolist() == [row % 2 for row in range(10)]


def test_a_bucket_that_is_not_there_is_told_at_once_and_not_made(s3: str, server: S3Server) -> None:
    with pytest.raises(
        UserError,
        match=r"^cannot write to s3://no-such-bucket/x: FileNotFoundError: The specified bucket "
        r"does not exist; check the address$",
    ):
        Remote("s3://no-such-bucket/x").check()
    assert server.asked == {"PUT .writable": 1}


def test_wrong_credentials_are_told_at_once_and_not_shown(s3: str, server: S3Server) -> None:
    with (
        s3_clients(AWS_ACCESS_KEY_ID="somebody"),
        pytest.raises(
            UserError,
            match=rf"^cannot write to {s3}/x: PermissionError: The key does not exist in our "
            r"records\.; check the credentials and what they allow$",
        ),
    ):
        Remote(f"{s3}/x").check()
    assert server.asked == {"PUT .writable": 1}


def test_no_credentials_are_told_at_once(s3: str) -> None:
    with (
        s3_clients(AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None),
        pytest.raises(UserError, match=r"NoCredentialsError: .*; check the credentials"),
    ):
        Remote(f"{s3}/x").check()


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("s3://", "check the address"),
        ("s3://UPPER_case!/x", "check the address"),
        ("nowhere://x", "Protocol not known: nowhere; check the address"),
        ("file:///dev/null/x", "check the address"),
    ],
)
def test_an_address_that_cannot_be_is_the_users_error(s3: str, address: str, told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        Remote(address).check()
    assert "\n" not in str(caught.value)
    assert "tried" not in str(caught.value)


def test_a_file_in_the_way_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match=r"cannot write to file://.*/out: FileExistsError"):
        Remote(f"file://{tmp_path}/out").check()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(address: str) -> None:
        raise ImportError(f"Install what {address.partition(':')[0]} needs")

    monkeypatch.setattr(fsspec.core, "url_to_fs", absent)
    with pytest.raises(UserError, match=r"needs; pip install 'pattlite_dist\[gs\]'$"):
        Remote("gs://bucket/x").check()


def test_a_server_that_errs_once_is_asked_again(s3: str, server: S3Server, tmp_path: Path) -> None:
    target = Remote(f"{s3}/x")
    server.faults = {"PUT train-000000.tar": 1, "HEAD train-000000.tar": 1}
    server.faults |= {f"{method} manifest.json": 1 for method in ("HEAD", "GET")}
    temporary, shard = finished(tmp_path, b"shard")
    target.place(temporary, shard)
    assert target.manifest() is None
    assert lying_at(target) == {shard.name: b"shard"}
    assert server.asked["PUT train-000000.tar"] == 3  # once for each error of PUT and HEAD
    # some versions of s3fs ask for the size of what they read.
    assert {server.asked[f"{method} manifest.json"] for method in ("HEAD", "GET")} == {0, 2}


def test_a_server_that_always_errs_is_one_line_and_the_shard_stays(
    s3: str, server: S3Server, tmp_path: Path
) -> None:
    server.faults = {"PUT train-000000.tar": 99}
    temporary, shard = finished(tmp_path, b"shard")
    with pytest.raises(
        UserError,
        match=rf"^cannot write {s3}/x/train-000000\.tar: OSError: .* internal error\.; "
        r"check the address and the network \(tried 4 times\)$",
    ):
        Remote(f"{s3}/x").place(temporary, shard)
    assert server.asked["PUT train-000000.tar"] == 4
    assert temporary.read_bytes() == b"shard"
    assert lying_at(Remote(f"{s3}/x")) == {}


def test_a_server_that_is_not_there_is_the_users_error(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pattlite_dist.shards.remote._RETRIES", 1)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    with (
        s3_clients(AWS_ENDPOINT_URL="http://127.0.0.1:9"),
        pytest.raises(UserError, match=r"Could not connect to the endpoint.*tried 2 times"),
    ):
        Remote(f"{s3}/x").check()


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_an_upload_that_arrives_cut_off_is_not_left_there(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Remote(f"{scheme}://{tmp_path}/out")
    target.check()
    store, _ = fsspec.core.url_to_fs(target.address)
    put, cut = type(store).put_file, tmp_path / "cut"

    def cut_off(self: object, local: str, remote: str) -> None:
        cut.write_bytes(Path(local).read_bytes()[:-1])
        put(self, str(cut), remote)

    temporary, shard = finished(tmp_path / "work", b"shard")
    with monkeypatch.context() as patch:
        patch.setattr(type(store), "put_file", cut_off)
        patch.setattr("pattlite_dist.shards.remote._RETRIES", 0)
        with pytest.raises(UserError, match="5 bytes were sent, 4 arrived"):
            target.place(temporary, shard)
    assert lying_at(target) == {}
    target.place(temporary, shard)
    assert lying_at(target) == {shard.name: b"shard"}


def test_where_uploads_grow_they_do_so_under_another_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Remote(f"file://{tmp_path}/out")
    target.check()
    store, _ = fsspec.core.url_to_fs(target.address)

    def killed(self: object, local: str, remote: str) -> None:
        Path(remote).write_bytes(b"sh")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(store), "put_file", killed)
        temporary, shard = finished(tmp_path / "work", b"shard")
        with pytest.raises(KeyboardInterrupt):
            target.place(temporary, shard)
    assert target.shard_names() == []
    assert not target.holds(shard)
    target.place(temporary, shard)
    assert lying_at(target) == {shard.name: b"shard"}  # the leftover was overwritten


def test_work_lies_in_the_users_cache_apart_for_each_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    work = Remote("s3://bucket/x").work()
    assert work.parent == tmp_path / "pattlite_dist" / "creating"
    assert work == Remote("s3://bucket/x/").work()
    assert work.name == hashlib.sha256(b"s3://bucket/x").hexdigest()[:16]
    assert work != Remote("s3://bucket/y").work()
    assert Remote("sftp://ada:old@host/x").work() == Remote("sftp://ada:new@host/x").work()
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Remote("s3://b").work().parent == tmp_path / ".cache" / "pattlite_dist" / "creating"


def test_a_login_is_never_shown() -> None:
    target = Remote("nowhere://ada:se%40cret@host/x/")
    assert target.shown == "nowhere://host/x"
    with pytest.raises(UserError, match="nowhere://host/x: ") as caught:
        target.check()
    assert "cret" not in str(caught.value)
