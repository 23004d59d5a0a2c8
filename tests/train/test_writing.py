import io
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pattlite_dist.errors import UserError
from pattlite_dist.files import atomic_write
from pattlite_dist.runtime.signals import Signals
from pattlite_dist.runtime.world import Agreement, World
from pattlite_dist.train import checkpoint, keeping
from pattlite_dist.train.checkpoint import AtomicCheckpointIO, load
from pattlite_dist.train.decision import Decisions
from pattlite_dist.train.keeping import Keeper
from pattlite_dist.train.module import FERModule
from pattlite_dist.train.names import listed
from pattlite_dist.train.temperature import CALIBRATION_NAME, Calibration
from pattlite_dist.train.writing import Beside, Order, copied
from tests.train.test_checkpoint import WHOLE


def content() -> dict[str, Any]:
    """As a run's: nested, in the layouts of networks, one tensor in two places."""
    kernel = torch.rand(4, 3, 2, 2).to(memory_format=torch.channels_last)
    shared = torch.arange(5)
    return {
        **WHOLE, "state_dict": {"model.a": kernel, "model.b": shared},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0), "avg": shared}},
                              "param_groups": [{"lr": 0.1, "params": [0]}]}],
        "loops": {"batches": (1, [2, torch.tensor(True)])},
    }  # fmt: skip


def stored(what: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(what, stream)
    return stream.getvalue()


def test_a_copy_is_stored_as_the_same_bytes_whatever_later_steps_do() -> None:
    original = content()
    before, copy = stored(original), copied(original)
    original["state_dict"]["model.a"].mul_(2)
    original["state_dict"]["model.b"] += 1
    original["optimizer_states"][0]["param_groups"][0]["lr"] = 0.05
    original["loops"]["batches"][1].append(4)
    assert stored(copy) == before
    assert copy["optimizer_states"][0]["state"][0]["avg"] is copy["state_dict"]["model.b"]


def test_one_piece_of_work_is_done_at_a_time_and_its_error_is_raised_to_who_waits() -> None:
    order: list[int] = []
    beside, go = Beside(), threading.Event()
    beside.wait()
    assert not beside.busy

    def fail() -> None:
        go.wait()
        order.append(1)
        raise ValueError("of the first")

    beside.begin(fail)
    assert beside.busy
    go.set()
    with pytest.raises(ValueError, match="of the first"):
        beside.begin(lambda: order.append(2))
    beside.begin(lambda: order.append(3))
    beside.wait()
    assert order == [1, 3] and not beside.busy


class HeldDisk:
    """Lets a file be written when told to, or fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self.failure: UserError | None = None
        monkeypatch.setattr(checkpoint, "atomic_write", self._write)

    def _write(self, path: Path) -> Any:
        self.begun.set()
        self.go.wait()
        if self.failure is not None:
            raise self.failure
        return atomic_write(path)


class Run:
    """As much of a run as a `Keeper` sees; its weight is the number of its step."""

    def __init__(self, folder: Path) -> None:
        self.keeper = Keeper(folder, World(), 1, beside=True)
        self.weight = torch.zeros(3)
        self.trainer: Any = SimpleNamespace(
            current_epoch=0, global_step=0, loggers=[], lightning_module=Fitted.__new__(Fitted),
            save_checkpoint=lambda path, storage_options: self.keeper.io.save_checkpoint(
                {**WHOLE, "global_step": self.trainer.global_step,
                 "state_dict": {"model.a": self.weight}}, path, storage_options,
            ),
        )  # fmt: skip

    def save(self, step: int, top1: float | None = None, at_once: bool = False) -> Any:
        self.trainer.global_step = step
        self.weight.fill_(step)
        return self.keeper.save(self.trainer, top1, at_once)

    def kept(self) -> list[int]:
        return sorted(item.step for item in listed(self.keeper.folder))


class Fitted(FERModule):
    """Is calibrated by its step."""

    def calibration(self, mark: Any) -> Calibration:
        return Calibration(
            created_by="test", **mark._asdict(), manifest="", samples=1, temperature=1,
            nll=(1, 1), ece=(0, 0),
        )  # fmt: skip


def test_nothing_follows_from_a_checkpoint_until_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path)
    assert run.save(0, 0.4, at_once=True) is None
    assert run.save(1, 0.5, at_once=True) is None
    disk = HeldDisk(monkeypatch)
    assert run.save(2, 0.6) is None
    disk.begun.wait()
    run.weight.fill_(99)  # by later steps
    assert run.keeper.busy() and run.kept() == [0, 1]
    assert '"step": 1' in (tmp_path / CALIBRATION_NAME).read_text()
    disk.go.set()
    found = run.keeper.last()
    assert found is not None and run.kept() == [1, 2] and not run.keeper.busy()
    assert '"step": 2' in (tmp_path / CALIBRATION_NAME).read_text()
    assert load(found)["state_dict"]["model.a"].tolist() == [2, 2, 2]


def test_the_next_save_waits_and_a_worse_one_is_not_calibrated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, disk = Run(tmp_path), HeldDisk(monkeypatch)
    run.save(1, 0.6)
    threading.Timer(0.05, disk.go.set).start()
    run.save(2, 0.5)
    assert 1 in run.kept()
    run.save(3)
    run.save(4)
    run.keeper.close()
    assert run.kept() == [1, 3, 4]
    assert '"step": 1' in (tmp_path / CALIBRATION_NAME).read_text()


def test_a_save_that_fails_beside_training_is_said_and_removes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path)
    run.save(1, 0.5, at_once=True)
    disk = HeldDisk(monkeypatch)
    disk.failure = UserError("the disk is full")
    disk.go.set()
    run.save(2, 0.6)
    last = run.keeper.last()
    assert last is not None and last.name.startswith("epoch=0000-step=00000001")
    assert run.kept() == [1]
    assert capsys.readouterr().err == "not saved, training continues: the disk is full\n"
    assert str(run.save(3, 0.7, at_once=True)) == "the disk is full"
    disk.failure = None
    assert run.save(4, 0.8) is None
    run.keeper.close()
    assert run.kept() == [1, 4]


def test_what_a_run_does_not_expect_is_raised_on_the_rank_that_saves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path)

    def fail(names: object, keep_best: int) -> list[str]:
        raise PermissionError("not yours")

    monkeypatch.setattr(keeping, "superfluous", fail)
    run.save(1)
    with pytest.raises(PermissionError, match="not yours"):
        run.save(2)


def test_by_the_clock_nothing_is_due_while_one_is_being_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, disk = Run(tmp_path), HeldDisk(monkeypatch)
    world = World()
    decisions = Decisions(
        tmp_path, world, Signals(), Agreement(world, 1), 1e-9, busy=run.keeper.busy,
        settle=run.keeper.last,
    )  # fmt: skip
    run.save(1)
    assert decisions.now() == (0, False)
    disk.go.set()
    run.keeper.close()
    assert decisions.now() == (0, True)


def test_weights_that_are_not_finite_are_told_at_the_step_itself(tmp_path: Path) -> None:
    saving = AtomicCheckpointIO()
    bad = {**WHOLE, "state_dict": {"model.a": torch.tensor([float("nan")])}}
    saving.save_checkpoint(bad, tmp_path / "x.ckpt", Order(beside=True))
    assert not saving.beside.busy and "NaN" in str(saving.failure)
    assert list(tmp_path.iterdir()) == []
