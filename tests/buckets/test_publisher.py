"""A publisher, in this process, on a bucket in memory and on a server."""

import os
import queue
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pattlite_dist.buckets import copies, publisher
from pattlite_dist.buckets.fetch import fetch, newest_step
from pattlite_dist.buckets.head import HEAD, Head, parse_head
from pattlite_dist.buckets.home import Home, sentence, time_left
from pattlite_dist.buckets.owner import Replaced
from pattlite_dist.buckets.publisher import LEASE, Publisher, Task, is_dead, machine, waits
from pattlite_dist.buckets.snapshot import Snapshots
from pattlite_dist.cli import main
from pattlite_dist.errors import UserError
from pattlite_dist.tracking.history import append
from pattlite_dist.train.initial import find
from tests.buckets.shelves import Memory, Objects
from tests.shards.s3_server import S3Server, new_bucket, s3_clients, s3_environment, s3_server

# Verbs that read a run, and their other arguments.
READERS: list[tuple[str, list[str], list[str]]] = [
    ("evaluate", [], []), ("audit", [], []), ("calibrate", [], []), ("report", [], []),
    ("export", [], ["a.onnx"]), ("targets", ["a"], ["a.safetensors"]), ("nodes", [], []),
    ("replay", ["--step=1"], []), ("predict", [], ["a.png"]), ("compare", ["a"], []),
]  # fmt: skip
FIRST, SECOND = (f"epoch=0000-step={step:08d}.ckpt" for step in (4, 8))


def make_run(folder: Path, *checkpoints: str) -> Path:
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text("name: a\n")
    for name in checkpoints:
        (folder / "checkpoints" / name).write_bytes(name.encode() * 100)
    append(folder, "started", step=0, epochs=2, steps_per_epoch=7)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


class Heard(list[tuple[str, dict[str, Any]]]):
    """What a publisher says."""

    def __call__(self, word: str, **facts: Any) -> None:
        self.append((word, facts))

    @property
    def words(self) -> list[str]:
        return [word for word, _ in self]


def new(objects: Objects, folder: Path, who: str, **facts: Any) -> tuple[Publisher, Heard]:
    heard = Heard()
    task = Task("s3://b/a", str(folder), 0.0, {"nonce": who, "pid": 1, **facts})
    return Publisher(task, Memory(objects), heard), heard


def test_what_is_only_this_machines_stays_there(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", FIRST)
    for name in (
        "run.lock", "run.claim", ".metrics.jsonl.1.tmp", "checkpoints/.x.tmp",
        "checkpoints/x.damaged", "wandb/run-id.txt", "wandb/offline-run-1/run.wandb",
        "calibration.json",
    ):  # fmt: skip
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("x")
    with Snapshots(run).take() as (parts, step):
        (run / "checkpoints" / FIRST).unlink()  # what is open can be read to its end
        assert parts[f"checkpoints/{FIRST}"].stream.read() == FIRST.encode() * 100
        assert step == 4
    assert sorted(parts) == [
        "calibration.json", f"checkpoints/{FIRST}", "config.yaml", "history.jsonl",
        "wandb/run-id.txt",
    ]  # fmt: skip


def test_a_run_is_published_and_comes_back_on_an_empty_disk(tmp_path: Path) -> None:
    objects = Objects()
    run = make_run(tmp_path / "a", FIRST)
    first, heard = new(objects, run, "first")
    first.begin(queue.Queue())
    first.look()
    make_run(run, SECOND)
    first.look()
    first.look()
    first.finish(1.0)
    assert heard.words == ["ready", "published", "published", "done"]
    kept = files(run)
    shutil.rmtree(run)
    first.say = Heard()
    first.publish()  # of what is being deleted: nothing
    second, heard = new(objects, run, "second")
    second.begin(queue.Queue())
    assert heard == [("ready", {"step": 8, "fetched": True})]
    assert files(run) == kept


def test_what_is_older_never_replaces_what_is_here(tmp_path: Path) -> None:
    objects = Objects()
    first, _ = new(objects, make_run(tmp_path / "a", FIRST), "first")
    first.begin(queue.Queue())
    first.look()
    own = make_run(tmp_path / "b", SECOND)
    before = files(own)
    second, heard = new(objects, own, "second")
    second.begin(queue.Queue())
    assert heard.words == ["ready"]
    assert files(own) == before
    second.look()
    assert fetch(Memory(objects), tmp_path / "c") is not None
    assert newest_step(tmp_path / "c") == 8


def test_an_owner_that_is_replaced_publishes_nothing_and_says_when_it_has_ended(
    tmp_path: Path,
) -> None:
    objects, told = Objects(), queue.Queue[dict[str, Any]]()
    run, heard = make_run(tmp_path / "a", FIRST), Heard()
    ready = threading.Event()

    def say(word: str, **facts: Any) -> None:
        heard(word, **facts)
        if word == "published":
            ready.set()

    task = Task("s3://b/a", str(run), 0.0, {"nonce": "first", "host": "h", "pid": 7})
    thread = threading.Thread(target=publisher.work, args=(task, Memory(objects), told, say))
    thread.start()
    assert ready.wait(60)
    second, later = new(objects, tmp_path / "b", "second", host="other")
    second.begin(queue.Queue())
    make_run(run, SECOND)
    told.put({"finish": 5.0})
    thread.join(60)
    assert heard.words[-1] in ("replaced", "published")
    assert [word for word in heard.words if word == "replaced"] == ["replaced"]
    assert heard[-1][1] == {"who": "process 1 on other"}
    head = parse_head(objects.held[HEAD].data)
    assert (head.number, head.owner["nonce"]) == (2, "second")
    assert "gone/000001" in objects.held
    assert newest_step(tmp_path / "b") == 4
    assert later.words == ["ready"]


def test_an_owner_is_waited_for_no_longer_than_its_lease_and_no_longer_than_asked() -> None:
    owner = Head(1, {})
    assert waits(None, 0.0, 300.0) == 0.0
    assert waits(owner.ended(), 0.0, 300.0) == 0.0
    assert waits(owner, 10.0, 300.0) == LEASE - 10.0
    assert waits(owner, 10.0, 3.0) == 3.0
    assert waits(owner, 1e6, 300.0) == 0.0


def test_a_start_that_waits_for_an_owner_ends_once_another_start_has_taken_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = Objects()
    first, second, third = (new(objects, tmp_path / who, who)[0] for who in ("a", "b", "c"))
    first.begin(queue.Queue())
    second.takeover = 1e3
    monkeypatch.setattr(publisher.time, "sleep", lambda seconds: third.begin(queue.Queue()))
    with pytest.raises(Replaced):
        second.begin(queue.Queue())


def test_a_process_that_has_ended_on_this_machine_is_not_waited_for() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    assert is_dead({"pid": process.pid, "machine": machine()})
    assert not is_dead({"pid": os.getpid(), "machine": machine()})
    assert not is_dead({"pid": process.pid, "machine": "another"})
    assert not is_dead({"pid": process.pid})


def test_a_bucket_that_does_not_answer_is_said_once_and_the_run_goes_on(tmp_path: Path) -> None:
    objects = Objects()
    run = make_run(tmp_path / "a", FIRST)
    first, heard = new(objects, run, "first")
    first.begin(queue.Queue())
    shelf = first.shelf
    assert isinstance(shelf, Memory)
    shelf.faults, shelf.chance = random.Random(0), 1.0
    first.look()
    make_run(run, SECOND)
    first.look()
    first.finish(0.0)
    assert heard.words == ["ready", "failed", "lost"]
    assert "the state before stays valid" in sentence("s3://b/a", *heard[-1])
    shelf.faults = None
    first.look()
    assert newest_step(tmp_path / "none") == -2
    assert fetch(Memory(objects), tmp_path / "b") is not None
    assert files(tmp_path / "b") == files(run)


def test_what_is_left_of_the_grace_period_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pattlite_dist.buckets.home.time.time", lambda: 1010.0)
    assert time_left(1000.0, None) == 20.0
    assert time_left(1000.0, 120) == 110.0
    assert time_left(1000.0, 120, 1030.5) == 20.5
    assert time_left(1000.0, 120, 1009.0) == 0.0
    assert time_left(0.0, None) == 0.0


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server, s3_clients(**s3_environment(server)):
        yield server


def test_a_run_is_copied_to_a_bucket_and_back_and_read_by_its_address(
    server: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    runs = f"s3://{new_bucket(server)}/runs"
    run = make_run(tmp_path / "a", FIRST)
    assert main(["runs", "copy", str(run), f"{runs}/a"]) == 0
    assert main(["runs", "copy", f"{runs}/a", str(tmp_path / "b")]) == 0
    assert files(tmp_path / "b") == files(run)
    for key in ("model.weights", "distill.teachers"):
        path = find(f"{runs}/a", key)
        assert (path.name, path.read_bytes()) == (FIRST, FIRST.encode() * 100)
        with pytest.raises(UserError, match=f"^{key}: {runs}/b is not a run"):
            find(f"{runs}/b", key)
    capsys.readouterr()
    for place in (f"{runs}/a", runs):
        assert main(["status", "--json", place]) == 0
        assert '"epochs": 2' in capsys.readouterr().out
    for words, message in (
        (["runs", "copy", str(run), f"{runs}/a"], "is a run already; give another address"),
        (["runs", "copy", f"{runs}/a", str(run)], "is a run already; give another folder"),
        (["runs", "copy", str(run), str(tmp_path / "c")], "give a folder and the address of a run"),
        (["runs", "copy", str(tmp_path), f"{runs}/c"], "is not a run folder"),
        (["runs", "copy", f"{runs}/c", str(tmp_path / "c")], "nothing was published there yet"),
        (["status", f"{runs}/a/b"], "is not a run, and has none"),
        *(
            ([verb, *before, f"{runs}/c", *after], "is not a run, and has none")
            for verb, before, after in READERS
        ),
        (["evaluate", "s3://no-such-bucket/a"], "s3://no-such-bucket/a"),
    ):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1, error
        assert message in error


def test_a_server_that_fails_for_a_moment_is_asked_again(server: S3Server, tmp_path: Path) -> None:
    address = f"s3://{new_bucket(server)}/a"
    server.faults.update({f"PUT {HEAD}": 4, f"GET {HEAD}": 4})
    run = make_run(tmp_path / "a", FIRST)
    copies.copy(str(run), address)
    assert not any(server.faults.values())
    copies.copy(address, str(tmp_path / "b"))
    assert files(tmp_path / "b") == files(run)


def test_a_bucket_that_is_not_there_is_a_users_mistake(server: S3Server, tmp_path: Path) -> None:
    home = Home("s3://no-such-bucket/a", tmp_path / "a", 0.0, lambda: None)
    with pytest.raises(UserError, match="cannot use s3://no-such-bucket/a: "):
        home.open(lambda: False)
    assert not home.close(0.0)
