import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from pattlite_dist.errors import UserError
from pattlite_dist.files import atomic_write, parse_json, sha256_file, write_text


def test_a_file_appears_whole_under_its_name(tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    with atomic_write(path) as stream:
        stream.write(b"first ")
        assert not path.exists()
        stream.write(b"second")
    assert path.read_bytes() == b"first second"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError("ours"), KeyboardInterrupt()])
def test_an_exception_leaves_the_old_file_and_no_temporary(
    tmp_path: Path, error: BaseException
) -> None:
    path = tmp_path / "data.bin"
    path.write_bytes(b"old")
    with pytest.raises(type(error)) as caught, atomic_write(path) as stream:
        stream.write(b"new")
        raise error
    assert caught.value is error
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_exception_makes_no_file_where_there_was_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ours"), atomic_write(tmp_path / "data.bin") as stream:
        stream.write(b"new")
        raise ValueError("ours")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "number", [errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.ENOSYS, errno.EACCES, 524]
)
@pytest.mark.parametrize("call", ["open", "fsync"])
def test_where_folders_cannot_be_synced_a_file_is_written_all_the_same(
    number: int, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    do = getattr(os, call)

    def refuse(what: int | str | Path, *rest: int) -> int | None:
        folder = os.path.isdir(what if call == "open" else f"/proc/self/fd/{what}")  # noqa: PTH112
        if folder:
            raise OSError(number, os.strerror(number))
        done: int | None = do(what, *rest)
        return done

    monkeypatch.setattr(os, call, refuse)
    write_text(tmp_path / "a.txt", "whole")
    assert (tmp_path / "a.txt").read_text() == "whole"
    number = errno.EIO  # but a disk that fails is told
    with pytest.raises(UserError, match=r"cannot write .*b\.txt: Input/output error"):
        write_text(tmp_path / "b.txt", "whole")


def test_an_old_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    path.write_bytes(b"a much longer old content")
    with atomic_write(path) as stream:
        stream.write(b"new")
    assert path.read_bytes() == b"new"


@pytest.fixture
def masked() -> Iterator[Callable[[int], int]]:
    """Sets the umask; it is as before at the end of the test."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


@pytest.mark.parametrize(
    ("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o027, 0o640), (0o002, 0o664)]
)
def test_who_may_read_what_is_written_is_the_users_choice(
    tmp_path: Path, masked: Callable[[int], int], mask: int, mode: int
) -> None:
    masked(mask)
    path = tmp_path / "data.bin"
    for content in (b"new", b"newer"):
        with atomic_write(path) as stream:
            stream.write(content)
        assert path.stat().st_mode & 0o777 == mode
    with atomic_write(tmp_path / "mine", 0o600) as stream:
        stream.write(b"new")
    assert (tmp_path / "mine").stat().st_mode & 0o777 == 0o600


def test_missing_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "text.txt"
    write_text(path, "x")
    assert path.read_text() == "x"


def test_a_folder_that_is_a_file_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"cannot write .*file/data\.bin: .*; .*choose a folder"):
        write_text(tmp_path / "file" / "data.bin", "x")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_name_that_is_a_folder_is_a_user_error_and_leaves_no_temporary(tmp_path: Path) -> None:
    (tmp_path / "data.bin").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*data\.bin: Is a directory"):
        write_text(tmp_path / "data.bin", "x")
    assert list(tmp_path.iterdir()) == [tmp_path / "data.bin"]


@pytest.mark.parametrize("call", ["fsync", "open"])
def test_a_full_disk_is_a_user_error_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "data.bin"
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(UserError, match="No space left on device; free some space"):
        write_text(path, "new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_bytes_and_then_the_folder_reach_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "data.bin"
    fsync: Callable[[int], None] = os.fsync
    seen: list[tuple[str, bool]] = []

    def watch(descriptor: int) -> None:
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        seen.append(("folder" if folder else "file", path.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    write_text(path, "new")
    assert seen == [("file", False), ("folder", True)]


def test_text_is_written_as_utf8(tmp_path: Path) -> None:
    write_text(tmp_path / "text.txt", "Gesicht ä €\n")
    assert (tmp_path / "text.txt").read_bytes() == b"Gesicht \xc3\xa4 \xe2\x82\xac\n"


# Around the 1 MiB chunks that it reads.
@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_the_hash_is_that_of_the_whole_file(tmp_path: Path, size: int) -> None:
    data = bytes(index % 251 for index in range(1000)) * (size // 1000 + 1)
    (tmp_path / "data.bin").write_bytes(data[:size])
    assert sha256_file(tmp_path / "data.bin") == hashlib.sha256(data[:size]).hexdigest()


class Pair(BaseModel):
    first: int
    second: list[int] = []


def test_a_model_is_read_from_json() -> None:
    assert parse_json(b'{"first": 1, "second": [2]}', Pair, "x", "y") == Pair(first=1, second=[2])


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "pair.json is not JSON ("),
        (b"\xff", "pair.json is not JSON ("),
        (b"[" * 100_000, "pair.json is not JSON ("),
        (b"[]", "pair.json: as a whole: Input should be "),
        (b"{}", "pair.json: first: Field required; "),
        (b'{"first": 1, "second": [2, "x"]}', "pair.json: second.1: Input should be a valid int"),
    ],
)
def test_json_that_is_no_model_is_one_line_with_its_place(data: bytes, told: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_json(data, Pair, "pair.json", "make it again")
    assert str(caught.value).startswith(told)
    assert str(caught.value).endswith("; make it again")
    assert "\n" not in str(caught.value)
