import contextlib
import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from pattlite_dist import stores
from pattlite_dist.errors import Unreachable, UserError
from pattlite_dist.train.checkpoint import (
    AtomicCheckpointIO,
    Unusable,
    best,
    check_fit,
    check_shards,
    load,
    newest,
    set_aside,
    shards_of,
)
from pattlite_dist.train.names import make_name
from tests.conftest import on_small_disk

WHOLE = {
    "state_dict": {}, "epoch": 0, "global_step": 0, "pattlite": {"config": {}, "labels": []},
}  # fmt: skip


def save(folder: Path, name: str, **content: object) -> Path:
    path = folder / name
    AtomicCheckpointIO().save_checkpoint({**WHOLE, **content}, path)
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


def test_a_newest_that_cannot_be_read_for_a_moment_is_not_taken_for_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "_first_pause", 0.0)
    save(tmp_path, make_name(0, 10, 0.5))
    wanted = save(tmp_path, make_name(0, 20, 0.6))
    failures = 4
    real = torch.load

    def fail(path: Path, **how: Any) -> Any:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return real(path, **how)

    monkeypatch.setattr(torch, "load", fail)
    assert newest(tmp_path) == wanted
    failures = 5
    with pytest.raises(Unreachable, match=r"step=00000020.* Stale file handle"):
        newest(tmp_path)


def test_shards_are_known_by_what_a_checkpoint_or_its_loader_says() -> None:
    loader = {"fit_loop": {"state_dict": {"combined_loader": [{"manifest": "old"}]}}}
    assert shards_of({"pattlite": {"shards": "new"}, "loops": loader}) == "new"
    assert shards_of({"pattlite": {}, "loops": loader}) == "old"
    for loops in ({}, {"fit_loop": {"state_dict": {}}}, None, [1]):
        assert shards_of({"pattlite": {}, "loops": loops}) is None
    check_shards({"pattlite": {}}, Path("a.ckpt"), "f" * 64, "here", "fix it")  # nothing to compare
    check_shards({"pattlite": {"shards": "f" * 64}}, Path("a.ckpt"), "f" * 64, "here", "fix it")
    with pytest.raises(UserError, match=r"a\.ckpt was trained on other .* eeeeeeee, now ffffffff"):
        check_shards({"pattlite": {"shards": "e" * 64}}, Path("a.ckpt"), "f" * 64, "here", "fix it")


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
    torch.save({**WHOLE, "pattlite": Malicious(victim)}, path)
    with pytest.raises(UserError, match="not a safe file of tensors"):
        load(path)
    assert not victim.exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04"])
def test_what_is_no_checkpoint_is_a_user_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.ckpt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.ckpt"):
        load(path)


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        {"weights": torch.zeros(1)},
        {"state_dict": {}, "epoch": 3, "global_step": 4},
        {**WHOLE, "pattlite": {}},
        {**WHOLE, "pattlite": {"config": {}, "labels": "angry"}},
        {**WHOLE, "epoch": "three"},
        {**WHOLE, "state_dict": [torch.zeros(1)]},
        {**WHOLE, "state_dict": {"w": 0.5}},
        {**WHOLE, "current_model_state": {3: torch.zeros(1)}},
    ],
)
def test_another_programs_file_is_a_user_error(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="is not a pattlite_dist checkpoint"):
        load(tmp_path / "other.ckpt")


def test_names_lose_what_wrapped_the_network_and_nothing_else(tmp_path: Path) -> None:
    names = {
        "model.head.w": "model.head.w",
        "model._orig_mod.head.a": "model.head.a",
        "module.model.head.b": "model.head.b",
        "_orig_mod.module.model.c": "model.c",
        "backbone._orig_mod.d": "model.backbone.d",
        "model.backbone.module.e": "model.backbone.module.e",
        "module": "model.module",
    }
    state = {name: torch.tensor(float(i)) for i, name in enumerate(names)}
    path = save(tmp_path, "a.ckpt", state_dict=state, current_model_state=state)
    found = load(path)
    for key in ("state_dict", "current_model_state"):
        assert {name: float(value) for name, value in found[key].items()} == {
            new: float(i) for i, new in enumerate(names.values())
        }
    both = {"model.w": torch.zeros(1), "module.w": torch.ones(1)}
    with pytest.raises(UserError, match=r"contains model\.w twice"):
        load(save(tmp_path, "b.ckpt", state_dict=both))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("key", ["state_dict", "current_model_state"])
def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(
    tmp_path: Path, key: str, value: float
) -> None:
    good = {"model.a": torch.ones(3), "model.n": torch.tensor(2)}
    bad = {**good, "model.b": torch.tensor([0.0, value])}
    path = save(tmp_path, "a.ckpt", state_dict=good)
    before = path.read_bytes()
    io = AtomicCheckpointIO()
    io.save_checkpoint({**WHOLE, "state_dict": good, key: bad}, path)
    assert isinstance(io.failure, Unusable)
    assert "model.b has NaN or infinite values" in str(io.failure)
    assert path.read_bytes() == before
    torch.save({**WHOLE, "state_dict": good, key: bad}, path)
    with pytest.raises(Unusable, match=r"has NaN or infinite values in model\.b"):
        load(path)


def test_a_newest_with_nan_is_no_place_to_continue_from(tmp_path: Path) -> None:
    whole = save(tmp_path, make_name(0, 10, 0.5), state_dict={"model.w": torch.ones(2)})
    bad = {**WHOLE, "state_dict": {"model.w": torch.tensor([torch.nan])}}
    torch.save(bad, tmp_path / make_name(0, 20, 0.6))
    with pytest.warns(UserWarning, match="step=00000020.*NaN"):
        assert newest(tmp_path) == whole


def test_another_networks_weights_are_one_line_that_names_each_kind_of_difference() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    state = net.state_dict()
    check_fit(net, state, "a.ckpt")
    state["1.weight"] = torch.zeros(2, 2)
    state["2.weight"] = state.pop("0.bias")
    with pytest.raises(UserError) as caught:
        check_fit(net, state, "a.ckpt")
    assert str(caught.value) == (
        "a.ckpt does not fit the network of its configuration (0.bias is missing; 2.weight is not "
        "in the network; 1.weight has shape [2, 2], the network [1, 3]); use another checkpoint"
    )


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
    content = {"state_dict": {"w": torch.full((kilobytes * 256,), float(step))}, "epoch": 0,
               "global_step": step, "pattlite": {"config": {}, "labels": []}}
    io.save_checkpoint(content, folder / make_name(0, step, None))
    return io.failure
def there():
    return sorted(path.name for path in folder.iterdir())
assert save(1, 20) is None
first = there()
# Tensors that end anywhere in the last page, and far beyond.
failures = [save(step, kilobytes) for step, kilobytes in enumerate((40, 41, 44, 60, 500), 2)]
for failure in failures:
    print(failure)
assert there() == first == [make_name(0, 1, None)]
assert newest(folder) == folder / first[0]
assert save(1, 200) is not None  # same name: the old file stays
assert load(folder / first[0])["state_dict"]["model.w"].unique().tolist() == [1.0]
assert save(9, 20) is None
assert load(newest(folder))["state_dict"]["model.w"].unique().tolist() == [9.0]
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
