import io
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pattlite_dist.tracking.logs import JsonlLogger
from pattlite_dist.tracking.progress import progress_callback, state_line


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def train_two_epochs(first_batch: int, fails: bool = False) -> None:
    """Call the hooks of a run that is resumed at a batch of the first of two epochs."""
    trainer: Any = SimpleNamespace(
        is_global_zero=True, current_epoch=0, max_epochs=2, global_step=first_batch, world_size=1,
        num_training_batches=4,
        callback_metrics={"train/loss": 0.25, "val/top1": 0.5, "val/macro_f1": 0.4},
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
        loggers=[JsonlLogger(Path("nowhere"))],
        datamodule=SimpleNamespace(
            config=SimpleNamespace(trainer=SimpleNamespace(global_batch=10, eval_batch=10)),
            manifest=SimpleNamespace(samples={"train": 37, "val": 19}.__getitem__),
        ),
    )  # fmt: skip
    module: Any = None
    trainer.loggers[0].latest.update({"train/loss": 0.25, "time/data": 0.1, "time/compute": 0.3})
    progress = progress_callback()
    progress.on_train_start(trainer, module)
    for epoch in range(2):
        trainer.current_epoch = epoch
        progress.on_train_epoch_start(trainer, module)
        for batch in range(0 if epoch else first_batch, 4):
            trainer.global_step += 1
            progress.on_train_batch_end(trainer, module, None, None, batch)
        if fails:
            progress.on_exception(trainer, module, RuntimeError())
            return
        for batch in range(2):
            progress.on_validation_batch_end(trainer, module, None, None, batch)
        progress.on_train_epoch_end(trainer, module)
    progress.on_train_end(trainer, module)


LINES = ["epoch 1/2, step 4: loss 0.2500, val top-1 50.00 %, ", "epoch 2/2, step 8: loss 0.2500"]


def test_a_log_gets_a_line_for_each_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    train_two_epochs(0)
    said = capsys.readouterr()
    for line, expected in zip(said.out.splitlines(), LINES, strict=True):
        assert line.startswith(expected)
    assert said.err == ""


def test_a_terminal_gets_the_same_lines_and_a_bar_that_counts_what_a_stopped_run_had_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    train_two_epochs(2)
    shown = terminal.getvalue()
    assert all(f"\x1b[2K{line}" in shown for line in ("epoch 1/2, step 4", "epoch 2/2, step 8"))
    first = shown.partition("step 4")[0]
    assert "30/37" in first and "37/37" in first and "10/37" not in first
    assert "10/37" in shown and "19/19" in shown
    assert "step 3, loss 0.2500, data wait 25 %" in first
    assert "best 50.00 %" not in first and "best 50.00 %" in shown
    assert sys.stdout is terminal
    train_two_epochs(2, fails=True)
    assert terminal.getvalue().endswith("\x1b[2K"), "the bar is wiped away"
    assert sys.stdout is terminal


def test_below_the_bar_is_what_is_known_and_nothing_else() -> None:
    assert state_line({}, 0) == "step 0"
    known = {
        "train/loss": 1.25, "time/data": 0.01, "time/compute": 0.03, "time/validate": 9.0,
        "val/top1": 0.61234,
    }  # fmt: skip
    assert state_line(known, 1234, 0.625, 3725.0, 3.21) == (
        "step 1,234, loss 1.2500, data wait 25 %, val 61.23 %, best 62.50 %, GPU 3.2 GB, "
        "1:02:05 left in all"
    )


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_line_is_wider_than_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    train_two_epochs(0)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue()).replace("\r", "\n")
    lines = [line for line in shown.splitlines() if not line.startswith("epoch 1/2, step")]
    assert max(map(len, lines)) <= width
