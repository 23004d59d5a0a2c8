"""A run whose loss or weights become NaN stops at that step and keeps the good checkpoints."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from pattlite_dist.cli import main
from pattlite_dist.config import Config
from pattlite_dist.runtime.signals import Signals
from pattlite_dist.runtime.world import Agreement, World
from pattlite_dist.tracking import history
from pattlite_dist.tracking.record import read_metrics
from pattlite_dist.train import checkpoint as checkpoints
from pattlite_dist.train import module as modules
from pattlite_dist.train import run as runs
from pattlite_dist.train.clock import Clock
from pattlite_dist.train.names import listed
from pattlite_dist.train.saving import Saver
from pattlite_dist.train.watch import LossWatch
from tests.conftest import tiny
from tests.starts import Zygote

pytestmark = pytest.mark.usefixtures("small_network")


def kept(run: Path) -> list[int]:
    """Steps of the checkpoints, after loading each to check that its weights are finite."""
    found = sorted(listed(run / "checkpoints"))
    for item in found:
        checkpoints.load(run / "checkpoints" / item.name)
    return [item.step for item in found]


def bad_loss(monkeypatch: pytest.MonkeyPatch, call: int, value: float) -> None:
    """Multiply the loss of one call by `value`."""
    real, calls = modules.loss_of, [0]

    def loss_of(*args: Any) -> torch.Tensor:
        calls[0] += 1
        loss: torch.Tensor = real(*args)
        return loss * value if calls[0] == call else loss

    monkeypatch.setattr(modules, "loss_of", loss_of)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_bad_loss_stops_the_run_at_its_step(
    value: float, face_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    bad_loss(monkeypatch, 7, value)
    arguments = tiny(
        face_shards, tmp_path, trainer__checkpoint_every_steps=3, trainer__log_every_steps=5
    )
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("pattlite: error: the loss of step 7 is NaN or infinite")
    assert "last good checkpoint is epoch=0000-step=00000006.ckpt" in error
    run = tmp_path / "tiny"
    assert kept(run) == [3, 6]
    lines = read_metrics(run / "metrics.jsonl")
    assert all(math.isfinite(value) for line in lines for value in line.values())
    (failed,) = [event for event in history.read(run) if event["event"] == "failed"]
    assert "the loss of step 7" in failed["error"]


class Poison(Callback):
    """Makes a weight NaN after a step whose loss is finite, as an overflowing gradient does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        if trainer.global_step == self.step:
            with torch.no_grad():
                next(pl_module.model.parameters()).fill_(torch.nan)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_nan_weights_are_not_saved_though_every_loss_was_good(
    ema: float, face_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    build = runs.build_trainer

    def build_trainer(*args: Any) -> pl.Trainer:
        trainer = build(*args)
        trainer.callbacks.insert(0, Poison(4))  # type: ignore[attr-defined]
        return trainer

    monkeypatch.setattr(runs, "build_trainer", build_trainer)
    arguments = tiny(face_shards, tmp_path, trainer__checkpoint_every_steps=2, optim__ema=ema)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("pattlite: error: step 4: not saved, model.")
    assert "last good checkpoint is epoch=0000-step=00000002.ckpt" in error
    assert kept(tmp_path / "tiny") == [2]


def test_a_learning_rate_far_too_high_ends_in_one_line(
    face_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = tiny(face_shards, tmp_path, optim__lr=1e30, trainer__checkpoint_every_steps=1)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "training has diverged and was stopped" in error
    kept(tmp_path / "tiny")


@pytest.mark.slow
def test_a_loss_that_is_bad_on_one_rank_stops_all_at_the_same_step(
    zygote: Zygote, face_shards: Path, tmp_path: Path
) -> None:
    arguments = tiny(face_shards, tmp_path, trainer__checkpoint_every_steps=3)
    ranks = zygote.with_small_networks()
    start = ranks.start(arguments, 2, module="tests.train.bad_loss", together=True)
    assert start.statuses == [2, 2], start.log
    errors = start.stderr.splitlines()
    assert len(errors) == 2 and errors[0] == errors[1]  # reported by each rank
    assert errors[0].startswith("pattlite: error: the loss of step 7 is NaN or infinite")
    assert kept(tmp_path / "tiny") == [3, 6]


def on_a_gpu(run: Path, monkeypatch: pytest.MonkeyPatch, every_steps: int) -> tuple[Any, list[int]]:
    """A function that takes a step on a simulated GPU, and the list of the steps saved."""
    run.mkdir()
    world = World()
    saver = Saver(run, world, Signals(), Agreement(world, 1), every_steps, 0, 1)
    saved: list[int] = []
    monkeypatch.setattr(
        Saver, "_save", lambda self, trainer, top1, at_once: saved.append(trainer.step)
    )
    monkeypatch.setattr("pattlite_dist.train.saving.log_before_saving", lambda *args: None)
    watch = LossWatch()

    def step(number: int, loss: float) -> None:
        progress = SimpleNamespace(batch_progress=SimpleNamespace(is_last_batch=False))
        trainer = SimpleNamespace(
            global_step=number, step=number, log_every_n_steps=20, num_training_batches=100,
            current_epoch=0, loggers=[], fit_loop=SimpleNamespace(epoch_loop=progress),
        )  # fmt: skip
        module = SimpleNamespace(
            device=torch.device("cuda"), watch=watch, clock=Clock(), noted={}, config=Config()
        )
        watch.see(torch.tensor(loss), number)
        saver.on_train_batch_end(cast(Any, trainer), cast(Any, module), None, None, number - 1)

    return step, saved


def test_on_a_gpu_the_loss_is_looked_at_where_it_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, _ = on_a_gpu(tmp_path / "run", monkeypatch, 0)
    for number in range(1, 20):
        step(number, math.nan if number == 3 else 1.0)
    with pytest.raises(checkpoints.Unusable, match="the loss of step 3 is NaN"):
        step(20, 1.0)


def test_on_a_gpu_the_loss_is_looked_at_before_every_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, saved = on_a_gpu(tmp_path / "run", monkeypatch, 4)
    for number in range(1, 8):
        step(number, math.inf if number == 6 else 1.0)
    assert saved == [4]
    with pytest.raises(checkpoints.Unusable, match="the loss of step 6 is NaN"):
        step(8, 1.0)
    assert saved == [4]


def test_a_checkpoint_of_another_network_in_the_runs_folder_is_one_line(
    face_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(tiny(face_shards, tmp_path, trainer__epochs=1)) == 0
    (item,) = listed(tmp_path / "tiny" / "checkpoints")
    path = tmp_path / "tiny" / "checkpoints" / item.name
    content = checkpoints.load(path)
    content["state_dict"]["model.head.bias"] = torch.zeros(9)
    torch.save(content, path)
    capsys.readouterr()
    assert main(tiny(face_shards, tmp_path, trainer__epochs=2)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "model.head.bias has shape [9], the network [7]" in error
    content = checkpoints.load(path)
    content["state_dict"]["model.head.bias"] = torch.zeros(7)
    for key in ("state_dict", "current_model_state"):
        content[key] = {f"_orig_mod.{name}": value for name, value in content[key].items()}
    torch.save(content, path)
    assert main(tiny(face_shards, tmp_path, trainer__epochs=2)) == 0
