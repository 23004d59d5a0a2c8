"""From the command line to a bucket, despite kills and server errors."""

import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest

from pattlite_dist.data.cache import Cache
from pattlite_dist.data.fetch import Origin, fetch_manifest
from pattlite_dist.data.reader import ShardReader
from pattlite_dist.errors import UserError
from pattlite_dist.shards.companions import COMPANION_NAMES
from pattlite_dist.shards.create import create_shards
from pattlite_dist.shards.sources.registry import open_source
from tests.conftest import Run, command, environment
from tests.shards.conftest import snapshot
from tests.shards.s3_server import S3Server, new_bucket, s3_clients, s3_environment, s3_server

PER_SHARD = 5
SHARDS = [*(f"train-{number:06d}.tar" for number in range(4)), "val-000000.tar", "test-000000.tar"]


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as running, s3_clients(**s3_environment(running)):
        yield running


@pytest.fixture
def bucket(server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an empty bucket; unfinished files go to the test's folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return f"s3://{new_bucket(server)}"


def write_source(path: Path, first_label: int = 0) -> Path:
    """The same 30 random images, whatever their labels."""
    images = np.random.default_rng(5).integers(0, 256, (30, 48 * 48), np.uint8)
    usages = ["Training"] * 20 + ["PublicTest"] * 5 + ["PrivateTest"] * 5
    rows = [
        f"{(first_label + number) % 7},{' '.join(map(str, image.tolist()))},{usage}\n"
        for number, (image, usage) in enumerate(zip(images, usages, strict=True))
    ]
    path.write_text("".join(["emotion,pixels,Usage\n", *rows]))
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("source") / "fer2013.csv")


@pytest.fixture(scope="module")
def expected(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the set, created in a folder by one process."""
    folder = tmp_path_factory.mktemp("local")
    create_shards(open_source(source), folder, samples_per_shard=PER_SHARD)
    return snapshot(folder)


def create(source: Path, out: str, *flags: str) -> list[str]:
    size = f"--samples-per-shard={PER_SHARD}"
    return ["shards", "create", str(source), out, size, "--jobs=1", *flags]


def lying_at(address: str) -> dict[str, bytes]:
    """Every file there with its bytes, read without the code under test."""
    store, root = fsspec.core.url_to_fs(address)
    store.invalidate_cache()
    return {name.removeprefix(f"{root}/"): store.cat_file(name) for name in store.find(root)}


def puts(server: S3Server) -> Counter[str]:
    """How often each file of a set was uploaded."""
    sent = {name: times for name, times in server.asked.items() if name.startswith("PUT ")}
    return Counter({name.removeprefix("PUT "): times for name, times in sent.items()})


@pytest.mark.slow
def test_a_set_goes_into_a_bucket_and_comes_back_from_it(
    pattlite: Run, bucket: str, server: S3Server, source: Path, expected: dict[str, bytes],
    tmp_path: Path,
) -> None:  # fmt: skip
    out = f"{bucket}/sets/faces"
    done = pattlite(*create(source, out))
    assert done.returncode == 0, done.stderr
    assert out in done.stdout
    assert lying_at(out) == expected
    assert puts(server) == dict.fromkeys(
        [".writable", *SHARDS, "manifest.json", *COMPANION_NAMES], 1
    )
    assert not any(path.is_file() for path in (tmp_path / "cache").rglob("*"))

    origin = Origin(out, retries=0)
    reader = ShardReader(origin, fetch_manifest(origin), "train", Cache(tmp_path / "blocks"))
    assert reader.gather(np.arange(20)).block.labels.tolist() == [i % 7 for i in range(20)]


@pytest.mark.slow
def test_killed_between_uploads_it_goes_on_and_sends_nothing_twice(
    bucket: str, server: S3Server, source: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    # Another set is there, whose shards have exactly the same sizes but other labels.
    out = f"{bucket}/faces"
    other = open_source(write_source(tmp_path / "fer2013.csv", first_label=1))
    create_shards(other, out, samples_per_shard=PER_SHARD)
    before = lying_at(out)
    sizes = {name: len(before[name]) for name in SHARDS}
    assert sizes == {name: len(expected[name]) for name in SHARDS}
    server.asked.clear()

    line = command(create(source, out, "--force"))
    running = subprocess.Popen(line, env=environment(), cwd=tmp_path)
    server.moments["PUT train-000002.tar"] = running.kill
    assert running.wait(120) == -9
    there = lying_at(out)
    assert "manifest.json" not in there  # no reader mistakes the mixture for a set
    assert {name for name in SHARDS if there[name] == expected[name]} == set(SHARDS[:2])

    again = subprocess.run(
        line, env=environment(), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    assert lying_at(out) == expected
    sent = puts(server)
    del sent[".writable"]
    assert sent.pop("train-000002.tar") == 2  # the first upload was interrupted by the kill
    assert sent == {name: 1 for name in [*SHARDS, "manifest.json"] if name != "train-000002.tar"}


@pytest.mark.slow
def test_a_server_that_fails_for_good_is_one_line_and_the_next_run_goes_on(
    pattlite: Run, bucket: str, server: S3Server, source: Path, expected: dict[str, bytes]
) -> None:
    out = f"{bucket}/faces"
    server.faults["PUT val-000000.tar"] = 99
    # This time, the endpoint comes from fsspec's own configuration.
    place = {"AWS_ENDPOINT_URL": "", "FSSPEC_S3_ENDPOINT_URL": server.address}
    done = pattlite(*create(source, out), **place)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert f"cannot write {out}/val-000000.tar: " in last
    assert last.endswith("check the address and the network (tried 4 times)")
    assert "Traceback" not in done.stderr
    assert "manifest.json" not in lying_at(out)
    server.faults.clear()
    create_shards(open_source(source), out, samples_per_shard=PER_SHARD)
    assert lying_at(out) == expected
    assert {puts(server)[name] for name in SHARDS if name != "val-000000.tar"} == {1}


def test_a_bucket_that_is_not_there_is_told_before_anything_is_read(
    bucket: str, source: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"no-such-bucket/x: FileNotFoundError: The specified"):
        create_shards(open_source(source), "s3://no-such-bucket/x")
    assert not (tmp_path / "cache").exists()
