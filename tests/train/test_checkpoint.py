import contextlib
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pattlite_dist.errors import UserError
from pattlite_dist.train.checkpoint import (
    AtomicCheckpointIO,
    best,
    load,
    make_name,
    newest,
    parse_name,
    superfluous,
)

scores = st.none() | st.integers(0, 10000).map(lambda i: i / 10000)


@given(st.integers(0, 10**5), st.integers(0, 10**9), scores)
def test_a_name_says_what_it_was_made_from(epoch: int, step: int, top1: float | None) -> None:
    found = parse_name(make_name(epoch, step, top1))
    assert found is not None
    assert (found.epoch, found.step) == (epoch, step)
    assert found.top1 == pytest.approx(-1 if top1 is None else top1, abs=5e-5)


@pytest.mark.parametrize("name", ["last.ckpt", "epoch=1-step=2.ckpt.tmp", ".epoch=1-step=2.ckpt"])
def test_other_files_are_no_checkpoints(name: str) -> None:
    assert parse_name(name) is None


@given(
    st.lists(st.tuples(st.integers(1, 500), scores), unique_by=lambda i: i[0]), st.integers(1, 4)
)
def test_newest_and_best_are_always_kept(items: list[tuple[int, float | None]], keep: int) -> None:
    names = [make_name(0, step, top1) for step, top1 in items]
    kept = sorted(set(names) - set(superfluous(names, keep)))
    assert len(kept) <= keep + 1
    if items:
        assert make_name(0, *max(items, key=lambda i: i[0])) in kept
    scored = [(top1, -step) for step, top1 in items if top1 is not None]
    for top1, step in sorted(scored, reverse=True)[:keep]:
        assert make_name(0, -step, top1) in kept
    assert superfluous([*kept, "notes.txt"], keep) == []


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
    with pytest.raises(UserError, match="No space left"):
        AtomicCheckpointIO().save_checkpoint({}, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_any_damage_is_a_user_error_or_no_damage(tmp_path: Path) -> None:
    whole = save(tmp_path, make_name(0, 1, None), x=torch.arange(50)).read_bytes()
    path = tmp_path / make_name(0, 2, None)
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with contextlib.suppress(UserError):
            load(path)
