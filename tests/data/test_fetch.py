import contextlib
import errno
import functools
import http.server
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pytest

from pattlite_dist import stores
from pattlite_dist.data.cache import Cache
from pattlite_dist.data.fetch import Origin, fetch_manifest
from pattlite_dist.data.reader import ShardReader
from pattlite_dist.errors import Unreachable, UserError
from tests.data.conftest import ShardSet, assert_is, read_all
from tests.serving import serving
from tests.train.harness import until


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "_first_pause", 0.01)


def test_a_pipe_is_refused_unless_allowed(shard_set: ShardSet, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    root = f"pipe:touch {mark}; cat {shard_set.folder}/{{name}}"
    with pytest.raises(UserError, match=r"would run a shell command.*data\.allow_pipe=true"):
        fetch_manifest(Origin(root))
    with pytest.raises(UserError, match="would run a shell command"):
        cache = Cache(tmp_path / "c")
        ShardReader(Origin(root), shard_set.manifest, "train", cache).gather(np.array([0]))
    assert not mark.exists()


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.ESHUTDOWN])
def test_a_file_system_that_does_not_answer_for_a_moment_is_asked_again(
    number: int, shard_set: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, failures = Path.read_bytes, [3]

    def fail(path: Path) -> bytes:
        failures[0] -= 1
        if failures[0] >= 0:
            raise OSError(number, os.strerror(number))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", fail)
    origin = Origin(str(shard_set.folder), retries=3)
    assert fetch_manifest(origin) == shard_set.manifest
    failures[0] = 3
    assert origin.read("train-000000.tar", len) == shard_set.manifest.shards["train"][0].bytes
    failures[0] = 4  # one too many
    with pytest.raises(Unreachable, match=r"train-000000\.tar: .*\(tried 4 times\)$") as caught:
        origin.read("train-000000.tar", len)
    assert not isinstance(caught.value, UserError)


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_a_shard_that_stays_unreachable_is_skipped_only_if_that_is_the_policy(
    policy: Any, shard_set: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Path.read_bytes

    def fail(path: Path) -> bytes:
        if path.name == "train-000000.tar":
            raise OSError(errno.EIO, "Input/output error")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", fail)
    origin = Origin(str(shard_set.folder), retries=0)
    reader = ShardReader(origin, shard_set.manifest, "train", Cache(tmp_path), policy)
    if policy == "skip":
        assert reader.gather(np.array([0])).good.tolist() == [False]
    else:
        with pytest.raises(Unreachable, match=r"train-000000\.tar: Input/output error; the disk"):
            reader.gather(np.array([0]))


def test_an_allowed_pipe_is_read(shard_set: ShardSet, tmp_path: Path) -> None:
    block = read_all(f"pipe:cat {shard_set.folder}/{{name}}", tmp_path / "cache", allow_pipe=True)
    assert_is(block, shard_set.truth["train"], np.arange(100))


def test_a_pipe_may_hold_the_shells_own_braces(
    shard_set: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARDS", str(shard_set.folder))
    root = "pipe:{ cat ${SHARDS}/{name}; }"
    assert fetch_manifest(Origin(root, allow_pipe=True)) == shard_set.manifest
    block = read_all(root, tmp_path / "cache", allow_pipe=True)
    assert_is(block, shard_set.truth["train"], np.arange(100))


def test_a_pipe_that_fails_is_the_users_error(shard_set: ShardSet, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot fetch pipe:exit 3"):
        Origin("pipe:exit 3 # {name}", allow_pipe=True).read("train-000000.tar", len)
    # A command that stops half-way and says all is well is caught by the manifest.
    root = f"pipe:head -c 5000 {shard_set.folder}/{{name}}"
    origin, cache = Origin(root, allow_pipe=True, retries=0), Cache(tmp_path / "c")
    reader = ShardReader(origin, shard_set.manifest, "train", cache)
    with pytest.raises(UserError, match=r"train-000000\.tar has 5000 bytes"):
        reader.gather(np.array([0]))


def test_a_pipe_that_falls_silent_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    mark = tmp_path / "child"
    root = f"pipe:sh -c 'echo $$ > {mark}; echo some; sleep 600; true' # {{name}}"
    begin = time.monotonic()
    origin = Origin(root, allow_pipe=True, retries=1, timeout=1.5)
    with pytest.raises(UserError, match=r"no data for 1\.5 s.*tried 2 times"):
        origin.read("x", len)
    assert time.monotonic() - begin < 60
    assert not until(lambda: lives(int(mark.read_text())))


def lives(pid: int) -> bool:
    """Whether it does anything: a killed process stays until its parent has asked for its end."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_pipe_that_never_ends_is_read_no_further_than_the_shard(shard_set: ShardSet) -> None:
    data = Origin("pipe:yes # {name}", allow_pipe=True).read("x", bytes, most=10)
    assert data == b"y\n" * 5


class Server(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; the file `train-000001.tar` goes wrong in the way and as often as told."""

    fault, times = "", 0
    seen: ClassVar[Counter[str]] = Counter()
    login: str | None = None
    let_go = threading.Event()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        cls, name = type(self), self.path.rsplit("/", 1)[-1]
        cls.seen[name] += 1
        cls.login = self.headers.get("Authorization")
        if name != "train-000001.tar" or cls.seen[name] > cls.times:
            return super().do_GET()
        data = Path(self.translate_path(self.path)).read_bytes()
        if cls.fault in ("404", "403", "500", "503", "429"):
            return self.send_error(int(cls.fault))
        if cls.fault == "drops":
            return self.connection.close()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if cls.fault == "truncates":
            self.wfile.write(data[: len(data) // 2])
        elif cls.fault == "stalls":
            self.wfile.write(data[:100])
            self.wfile.flush()
            cls.let_go.wait(60)
        elif cls.fault == "flips":
            self.wfile.write(data[:999] + bytes([data[999] ^ 1]) + data[1000:])
        return None


@contextlib.contextmanager
def served(folder: Path, fault: str = "", times: int = 0) -> Iterator[str]:
    Server.fault, Server.times, Server.seen = fault, times, Counter()
    Server.let_go.clear()
    handler = functools.partial(Server, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        with serving(server):
            try:
                yield f"http://127.0.0.1:{server.server_port}"
            finally:
                Server.let_go.set()


def test_shards_and_manifest_come_over_http(shard_set: ShardSet, tmp_path: Path) -> None:
    with served(shard_set.folder.parent) as address:
        for slash in ("", "/"):
            root = f"{address}/{shard_set.folder.name}{slash}"
            assert fetch_manifest(Origin(root)) == shard_set.manifest
            block = read_all(root, tmp_path / f"cache{slash and 1}")
            assert_is(block, shard_set.truth["train"], np.arange(100))


def patience(fault: str, silence: float) -> float:
    """Seconds without data: few only where a server falls silent, as a busy machine is late."""
    return silence if fault == "stalls" else 20


FAULTS = ["500", "503", "429", "truncates", "stalls", "flips", "drops"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_passes_costs_no_more_than_another_try(
    fault: str, shard_set: ShardSet, tmp_path: Path
) -> None:
    with served(shard_set.folder, fault, times=2) as address:
        block = read_all(address, tmp_path, timeout=patience(fault, 1))
    assert_is(block, shard_set.truth["train"], np.arange(100))
    assert Server.seen["train-000001.tar"] == 3
    assert Server.seen["train-000002.tar"] == 1


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("500", "the server responded 500"),
        ("truncates", "cut off after"),
        ("stalls", r"no data for 0\.2 s"),
        ("flips", r"differs from its manifest \(SHA-256\)"),
        ("drops", "cannot fetch"),
    ],
)
def test_a_shard_that_stays_bad_stops_with_its_name_and_leaves_no_entry(
    fault: str, reason: str, shard_set: ShardSet, tmp_path: Path
) -> None:
    with (
        served(shard_set.folder, fault, times=99) as address,
        pytest.raises(UserError, match=reason) as caught,
    ):
        read_all(address, tmp_path, timeout=patience(fault, 0.2), retries=2)
    assert f"{address}/train-000001.tar" in str(caught.value)
    assert str(caught.value).endswith("(tried 3 times)")
    assert "\n" not in str(caught.value)
    assert Server.seen["train-000001.tar"] == 3
    assert len(list(tmp_path.glob("*.block"))) == 1  # the shard before it


@pytest.mark.parametrize("answer", ["404", "403"])
def test_what_the_server_will_never_give_is_asked_for_once(
    answer: str, shard_set: ShardSet, tmp_path: Path
) -> None:
    with served(shard_set.folder, answer, times=99) as address:
        with pytest.raises(UserError, match=f"{address}/train-000001.tar: .* {answer}"):
            read_all(address, tmp_path)
        assert Server.seen["train-000001.tar"] == 1
        with pytest.raises(UserError, match=f"cannot fetch {address}/none/manifest.json: .* 404"):
            fetch_manifest(Origin(f"{address}/none"))


def test_a_server_that_is_not_there_is_the_users_error() -> None:
    with pytest.raises(UserError, match=r"cannot fetch http://127\.0\.0\.1:9/.*refused.*3 times"):
        fetch_manifest(Origin("http://127.0.0.1:9", retries=2))


def test_a_server_that_answers_something_else_is_caught(copied: Path, tmp_path: Path) -> None:
    (copied / "train-000000.tar").write_text("<html>please log in</html>")
    with served(copied) as address:
        with pytest.raises(UserError, match=r"train-000000\.tar has 26 bytes"):
            read_all(address, tmp_path / "cache")
        (copied / "manifest.json").write_text("<html>please log in</html>")
        with pytest.raises(UserError, match=f"{address}/manifest.json is not JSON"):
            fetch_manifest(Origin(address))


def test_a_login_is_sent_and_never_shown(copied: Path) -> None:
    (copied / "train-000000.tar").unlink()
    with served(copied) as address:
        origin = Origin(address.replace("://", "://ada:s%40cret@"))
        assert fetch_manifest(origin).labels
        assert Server.login == "Basic YWRhOnNAY3JldA=="
        with pytest.raises(UserError) as caught:
            origin.read("train-000000.tar", len)
    assert "cret" not in str(caught.value)
    assert f"{address}/train-000000.tar" in str(caught.value)


@pytest.fixture
def store(shard_set: ShardSet) -> Iterator[str]:
    """The shards in fsspec's store in memory, by the road that s3:// and gs:// take."""
    memory = fsspec.filesystem("memory")
    memory.put(str(shard_set.folder), "/bucket/grey", recursive=True)
    yield "memory://bucket/grey"
    memory.rm("/bucket", recursive=True)


def test_shards_come_from_an_object_store(shard_set: ShardSet, store: str, tmp_path: Path) -> None:
    assert_is(read_all(store, tmp_path), shard_set.truth["train"], np.arange(100))


def test_what_a_store_lacks_is_named_at_once(store: str, tmp_path: Path) -> None:
    fsspec.filesystem("memory").rm("/bucket/grey/train-000003.tar")
    with pytest.raises(UserError, match=r"grey/train-000003\.tar: FileNotFoundError") as caught:
        read_all(store, tmp_path)
    assert "tried" not in str(caught.value)


def test_an_address_of_no_known_kind_is_the_users_error() -> None:
    with pytest.raises(UserError, match=r"cannot fetch nowhere://x/manifest.json.*check the addr"):
        fetch_manifest(Origin("nowhere://x"))


@pytest.mark.parametrize(("scheme", "extra"), [("s3", "s3"), ("gs", "gs")])
def test_a_store_without_its_package_says_what_to_install(
    scheme: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(address: str) -> None:
        raise ImportError(f"Install the package to access {address.partition(':')[0]}")

    monkeypatch.setattr(fsspec.core, "url_to_fs", absent)
    with pytest.raises(UserError, match=rf"pip install 'pattlite_dist\[{extra}\]'"):
        fetch_manifest(Origin(f"{scheme}://bucket"))
