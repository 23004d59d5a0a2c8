import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pattlite_dist.errors import UserError
from pattlite_dist.runtime import elastic, network
from pattlite_dist.runtime.elastic import _worth_telling, first_to_tell, status, told_before


def worker(folder: Path, attempt: int, rank: int) -> dict[str, str]:
    """A worker's environment, in the folders that torchrun creates."""
    file = folder / f"attempt_{attempt}" / str(rank) / "error.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    return {"TORCHELASTIC_ERROR_FILE": str(file)}


def test_a_mistake_is_told_by_one_worker_once(tmp_path: Path) -> None:
    first, second = worker(tmp_path, 0, 0), worker(tmp_path, 0, 1)
    assert not told_before(first)
    assert first_to_tell("no shards", second)
    assert not first_to_tell("no shards", first)
    assert first_to_tell("and no GPU", first)  # a different mistake
    again = worker(tmp_path, 1, 0)
    assert told_before(again)
    assert not first_to_tell("no shards", again)


@pytest.mark.parametrize("file", [None, "", "error.json", "/dev/null", "/nowhere/a/b/c.json"])
def test_without_torchruns_folder_everyone_tells(file: str | None) -> None:
    env = {} if file is None else {"TORCHELASTIC_ERROR_FILE": file}
    for _ in range(2):
        assert first_to_tell("no shards", env)
        assert not told_before(env)


def test_where_nothing_can_be_written_everyone_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "touch", refuse)
    assert first_to_tell("no shards", worker(tmp_path, 0, 0))
    assert first_to_tell("no shards", worker(tmp_path, 0, 1))


def test_a_mistake_among_failures_is_the_status() -> None:
    assert status([2, -15]) == status([-15, 2]) == 2
    assert status([-9, 1]) == 1


def test_of_torchruns_log_a_mistake_and_the_ends_it_causes_are_left_out() -> None:
    def told(text: str, *args: object) -> bool:
        return _worth_telling(logging.LogRecord("x", logging.ERROR, "x", 1, text, args, None))

    failed = "failed (exitcode: %s) local_rank: %s (pid: %s) of binary: %s"
    assert not told(failed, 2, 0, 17, "python")
    assert told(failed, -9, 0, 2, "python")
    assert not told("Sending process %s closing signal %s", 17, "SIGTERM")


def test_the_cause_comes_before_what_only_followed_from_it(tmp_path: Path) -> None:
    env = [worker(tmp_path, 1, rank) for rank in range(3)]
    files = [one["TORCHELASTIC_ERROR_FILE"] for one in env]
    assert elastic.cause(files) is None
    elastic.note_failure("lost rank 2", primary=False, env=env[0])
    assert elastic.cause([files[1]]) == "lost rank 2"  # of any worker of the attempt
    elastic.note_failure("rank 2 failed: no shard", primary=True, env=env[2])
    assert elastic.cause([files[0]]) == "rank 2 failed: no shard"
    elastic.note_failure("nobody listens", primary=True, env={})


def test_one_worker_of_an_attempt_says_that_it_lost_a_rank(tmp_path: Path) -> None:
    env = [worker(tmp_path, 0, rank) for rank in range(2)]
    assert [elastic.first_to_end(one) for one in env] == [True, False]
    assert elastic.first_to_end({})  # without an agent each speaks for itself


@pytest.mark.parametrize(
    ("given", "local_addr", "conf"),
    [
        ({"standalone": True}, "127.0.0.1", ""),
        ({"nnodes": "1"}, "127.0.0.1", ""),
        ({"standalone": True, "local_addr": "10.0.0.9"}, "10.0.0.9", ""),
        ({"nnodes": "2", "rdzv_endpoint": "first:29400"}, "way to first", "is_host=1"),
        ({"nnodes": "2", "rdzv_endpoint": "[fd00::1]:1"}, "way to fd00::1", "is_host=1"),
        ({"nnodes": "2", "rdzv_endpoint": "first:1", "rdzv_conf": "a=1"}, "way to first",
         "a=1,is_host=1"),
        ({"nnodes": "2", "rdzv_endpoint": "first:1", "rdzv_conf": "is_host=0"}, "way to first",
         "is_host=0"),
        ({"nnodes": "2", "rdzv_endpoint": "localhost:1"}, "way to localhost", ""),
        ({"nnodes": "2", "rdzv_endpoint": "first:1", "rdzv_backend": "etcd"}, None, ""),
    ],
)  # fmt: skip
def test_agents_give_the_address_that_leads_to_where_they_meet(
    given: dict[str, Any], local_addr: str | None, conf: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "agent_address", lambda host: f"way to {host}")
    monkeypatch.setattr(network, "name_leads_here", lambda: False)
    monkeypatch.setattr(network, "is_here", lambda host: True)
    nothing = {
        "standalone": False, "nnodes": "1:1", "rdzv_endpoint": "", "rdzv_backend": "c10d",
        "rdzv_conf": "", "local_addr": None,
    }  # fmt: skip
    options = SimpleNamespace(**{**nothing, **given})
    elastic.find_addresses(options)
    assert (options.local_addr, options.rdzv_conf) == (local_addr, conf)


@pytest.mark.parametrize(("grace", "seconds"), [("120", 115), ("6", 1), ("5", 1), ("1", 1)])
def test_workers_are_left_most_of_the_grace_period(grace: str, seconds: int) -> None:
    given = elastic.grace({"PATTLITE_GRACE_SECONDS": grace})
    assert given is not None and elastic.patience(given) == seconds
    assert elastic.grace({}) is None


@pytest.mark.parametrize("grace", ["", "0", "-1", "2m", "1.5"])
def test_a_grace_period_that_is_no_number_of_seconds_is_refused(grace: str) -> None:
    with pytest.raises(UserError, match="is not a number of seconds from 1; set"):
        elastic.grace({"PATTLITE_GRACE_SECONDS": grace})
