import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pattlite_dist.data import trust
from pattlite_dist.data.cache import Cache
from pattlite_dist.data.trust import default_cache, part_of_this_node, refuse_planted
from pattlite_dist.errors import UserError
from tests.data.test_cache import SIZE, content, entries, fill, key, never, payload

Stranger = Callable[[], None]


@pytest.fixture
def as_stranger(monkeypatch: pytest.MonkeyPatch) -> Stranger:
    """From then on, this process is another user than the one who has made the files."""
    other = os.getuid() + 1
    return lambda: monkeypatch.setattr(os, "getuid", lambda: other)


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLURM_TMPDIR", str(tmp_path))
    return tmp_path


def test_the_cache_is_the_schedulers_folder_where_it_gives_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SLURM_TMPDIR", "/scratch/job7")
    assert default_cache() == Path(f"/scratch/job7/pattlite-cache-{os.getuid()}")
    monkeypatch.delenv("SLURM_TMPDIR")
    monkeypatch.setattr("tempfile.tempdir", "/var/elsewhere")
    assert default_cache() == Path(f"/var/elsewhere/pattlite-cache-{os.getuid()}")


def test_a_default_cache_that_somebody_else_made_is_refused(
    base: Path, as_stranger: Stranger
) -> None:
    as_stranger()
    assert default_cache() == base / f"pattlite-cache-{os.getuid()}"
    default_cache().mkdir()
    with pytest.raises(UserError, match=f"pattlite-cache-{os.getuid()} belongs to another user"):
        default_cache()


def test_a_default_cache_that_is_a_link_is_refused_wherever_it_leads(base: Path) -> None:
    (base / "mine").mkdir()
    default_cache().symlink_to(base / "mine")
    with pytest.raises(UserError, match="is a link or a file; remove it"):
        default_cache()


def test_an_older_default_cache_is_closed_to_others(base: Path) -> None:
    default_cache().mkdir(0o775)
    default_cache().chmod(0o775)
    assert stat.S_IMODE(default_cache().stat().st_mode) == 0o700


@pytest.mark.parametrize("mask", [0, 0o002, 0o077])
def test_what_is_made_is_for_its_user_alone(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        fill(Cache(tmp_path / "new" / "cache"), 3)
    finally:
        os.umask(before)
    folder = tmp_path / "new" / "cache"
    modes = {path.name: stat.S_IMODE(path.lstat().st_mode) for path in [folder, *folder.iterdir()]}
    assert modes == {"cache": 0o700, "locks": 0o700, f"{key(3)}.block": 0o600}


def test_an_entry_that_others_may_have_written_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(Cache(tmp_path), 3)
    tmp_path.chmod(0o777)
    real = os.fstat

    def of_another(descriptor: int) -> os.stat_result:
        found = real(descriptor)
        if planted and stat.S_ISREG(found.st_mode) and found.st_size > SIZE:
            return os.stat_result([*found[:4], os.getuid() + 1, *found[5:]])
        return found

    made: list[int] = []
    planted = [True]

    def make() -> "np.typing.NDArray[np.uint8]":
        planted.clear()  # from here on the entry is this user's
        made.append(3)
        return payload(3)

    monkeypatch.setattr(os, "fstat", of_another)
    assert content(Cache(tmp_path).open(key(3), SIZE, make)) == {3}
    assert made == [3]


def test_an_entry_under_the_name_of_another_is_made_again(tmp_path: Path) -> None:
    fill(Cache(tmp_path), 3, 4)
    (tmp_path / f"{key(3)}.block").replace(tmp_path / f"{key(4)}.block")
    fill(Cache(tmp_path), 3, 4)
    for number in (3, 4):
        assert content(Cache(tmp_path).open(key(number), SIZE, never)) == {number}


def test_locks_in_a_folder_that_somebody_planted_are_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "locks").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"others may write there, and have; set data.cache"):
        fill(Cache(tmp_path / "cache"), 1)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_folder_or_link_that_anybody_may_have_put_there_is_refused(
    tmp_path: Path, as_stranger: Stranger
) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o1777)
    (tmp_path / "open" / "cache").mkdir()
    (tmp_path / "home").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "home")
    if os.getuid() == 0:  # root's links and folders are trusted: give them to somebody
        for path in (tmp_path / "open" / "cache", tmp_path / "link", tmp_path / "home"):
            os.chown(path, 4711, 4711, follow_symlinks=False)
    as_stranger()
    for folder in (tmp_path / "open" / "cache", tmp_path / "link"):
        with pytest.raises(UserError, match=r"another user has put the cache folder .* there"):
            Cache(folder)
    refuse_planted(tmp_path / "home")  # a colleague's, who alone can write beside it
    refuse_planted(tmp_path / "open" / "nothing")


def test_a_warm_cache_of_a_colleague_or_on_a_read_only_disk_is_used(
    tmp_path: Path, as_stranger: Stranger, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(Cache(tmp_path), 3)

    def refused(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    for name in ("utime", "mkdir"):
        monkeypatch.setattr(os, name, refused)
    monkeypatch.setattr(Path, "mkdir", refused)  # on Python 3.10 it does not look at os.mkdir
    as_stranger()
    assert content(Cache(tmp_path).open(key(3), SIZE, never)) == {3}
    assert entries(tmp_path) == [3]
    (tmp_path / "locks").rename(tmp_path / "none")
    with pytest.raises(UserError, match=r"cannot use the cache folder .*Read-only"):
        Cache(tmp_path).open(key(4), SIZE, never)


def test_nodes_that_share_a_folder_keep_their_entries_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that makes room must not take away what another has mapped."""
    assert part_of_this_node(tmp_path) == tmp_path
    monkeypatch.setattr(trust, "shared_kind", lambda folder: "lustre")
    for _ in range(2):
        assert part_of_this_node(tmp_path) == tmp_path / socket.gethostname()
    said = capsys.readouterr().err
    assert said.count("is on lustre, which other nodes may share") == 1
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert part_of_this_node(tmp_path) == tmp_path, "a colleague's, which is only read"
