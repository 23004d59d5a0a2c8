import logging
from pathlib import Path

import pytest

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
