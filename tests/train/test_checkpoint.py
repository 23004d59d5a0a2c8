import contextlib
from pathlib import Path

import pytest
import torch

from pattlite_dist.errors import UserError
from pattlite_dist.train.checkpoint import AtomicCheckpointIO, best, load, newest
from pattlite_dist.train.names import make_name


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
