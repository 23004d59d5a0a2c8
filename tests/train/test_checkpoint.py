import contextlib
from pathlib import Path

import pytest
import torch

from pattlite_dist.errors import UserError
from pattlite_dist.train.checkpoint import AtomicCheckpointIO, best, load, newest, set_aside
from pattlite_dist.train.names import make_name
from tests.conftest import on_small_disk


def save(folder: Path, name: str, **content: object) -> Path:
    path = folder / name
    AtomicCheckpointIO().save_checkpoint({"state_dict": {}, "pattlite": {}, **content}, path)
    return path


def test_newest_is_the_highest_step_not_the_latest_written(tmp_path: Path) -> None:
    wanted = save(tmp_path, make_name(1, 20, None))
    save(tmp_path, make_name(0, 3, 0.9))
    assert newest(tmp_path) == wanted


def test_a_cut_off_newest_is_skipped_with_a_warning(tmp_path: Path) -> None:
    whole = save(tmp_path, make_name(0, 10, 0.5), x=torch.arange(10000))
    cut = tmp_path / make_name(0, 20, 0.6)
    cut.write_bytes(whole.read_bytes()[:-3000])
    with pytest.warns(UserWarning, match="step=00000020"):
        assert newest(tmp_path) == whole


def test_what_is_newer_than_the_newest_whole_one_is_set_aside(tmp_path: Path) -> None:
    whole = save(tmp_path, make_name(0, 10, 0.5))
    for step in (10, 20, 30):
        (tmp_path / make_name(0, step, None)).write_bytes(b"cut off")
    set_aside(tmp_path, whole)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == sorted(
        [whole.name, make_name(0, 10, None),
         *(f"{make_name(0, step, None)}.damaged" for step in (20, 30))]
    )  # fmt: skip
    assert newest(tmp_path) == whole
    set_aside(tmp_path, None)
    assert not list(tmp_path.glob("*.ckpt"))
    set_aside(tmp_path / "nowhere", None)


def test_no_checkpoints_is_none_or_an_error(tmp_path: Path) -> None:
    assert newest(tmp_path / "nowhere") is None
    with pytest.raises(UserError, match="no checkpoint"):
        best(tmp_path)


def test_best_is_by_accuracy_and_of_equals_the_earlier(tmp_path: Path) -> None:
    for step, top1 in ((1, 0.3), (2, 0.7), (3, 0.7), (4, None)):
        save(tmp_path, make_name(0, step, top1))
    assert best(tmp_path).name == make_name(0, 2, 0.7)


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_a_checkpoint_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    path, victim = tmp_path / "bad.ckpt", tmp_path / "touched"
    torch.save({"state_dict": {}, "pattlite": Malicious(victim)}, path)
    with pytest.raises(UserError, match="not a safe file of tensors"):
        load(path)
    assert not victim.exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04"])
def test_what_is_no_checkpoint_is_a_user_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.ckpt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.ckpt"):
        load(path)


def test_another_programs_file_is_a_user_error(tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="not a checkpoint of pattlite_dist"):
        load(tmp_path / "other.ckpt")


def test_a_failed_save_leaves_the_old_file_and_no_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path, make_name(0, 1, None))
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    io = AtomicCheckpointIO()
    io.save_checkpoint({}, path)
    assert "No space left" in str(io.failure)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_any_damage_is_a_user_error_or_no_damage(tmp_path: Path) -> None:
    whole = save(tmp_path, make_name(0, 1, None), x=torch.arange(50)).read_bytes()
    path = tmp_path / make_name(0, 2, None)
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with contextlib.suppress(UserError):
            load(path)


_FULL = """
import sys
from pathlib import Path
import torch
from pattlite_dist.train.checkpoint import AtomicCheckpointIO, load, newest
from pattlite_dist.train.names import make_name
folder = Path(sys.argv[1]) / "checkpoints"
io = AtomicCheckpointIO()
def save(step, kilobytes):
    content = {"state_dict": {"w": torch.full((kilobytes * 256,), float(step))}, "pattlite": {}}
    io.save_checkpoint(content, folder / make_name(0, step, None))
    return io.failure
def there():
    return sorted(path.name for path in folder.iterdir())
assert save(1, 20) is None
first = there()
# Tensors that end at any place of the last page, and far beyond.
failures = [save(step, kilobytes) for step, kilobytes in enumerate((40, 41, 44, 60, 500), 2)]
for failure in failures:
    print(failure)
assert there() == first == [make_name(0, 1, None)]
assert newest(folder) == folder / first[0]
assert save(1, 200) is not None  # the same name: the old one stays
assert load(folder / first[0])["state_dict"]["w"].unique().tolist() == [1.0]
assert save(9, 20) is None
assert load(newest(folder))["state_dict"]["w"].unique().tolist() == [9.0]
assert there() == [*first, make_name(0, 9, None)]
"""


@pytest.mark.slow
def test_on_a_full_disk_the_failure_is_kept_and_nothing_torn_stays(tmp_path: Path) -> None:
    done = on_small_disk(tmp_path, _FULL, "-W", "error")
    assert done.returncode == 0, done.stderr
    failures = done.stdout.splitlines()
    assert len(failures) == 5
    for step, failure in enumerate(failures, 2):
        assert failure.startswith(f"cannot write {tmp_path}/checkpoints/{make_name(0, step, None)}")
        assert "No space left" in failure or "is the disk full?" in failure
