from pathlib import Path
from typing import Any

import pytest

from pattlite_dist.errors import UserError
from pattlite_dist.tracking.logs import JsonlLogger
from pattlite_dist.tracking.record import read_metrics
from pattlite_dist.tracking.wandb_logger import LenientWandbLogger
from tests.conftest import on_small_disk


def test_each_set_of_metrics_is_a_line(tmp_path: Path) -> None:
    logger = JsonlLogger(tmp_path / "metrics.jsonl")
    logger.log_metrics({"epoch": 2.0, "train/loss": 0.5}, 7)
    logger.log_metrics({"val/top1": 0.25}, 8)
    first, second = read_metrics(logger.path)
    assert (first["step"], first["epoch"], first["train/loss"]) == (7, 2, 0.5)
    assert (second["step"], second["val/top1"]) == (8, 0.25)
    assert "epoch" not in second


def test_what_was_just_said_is_not_said_again(tmp_path: Path) -> None:
    logger = JsonlLogger(tmp_path / "metrics.jsonl")
    for value in (0.5, 0.5, 0.25, 0.5):
        logger.log_metrics({"train/loss": value}, 7)
    assert [line["train/loss"] for line in read_metrics(logger.path)] == [0.5, 0.25, 0.5]


def test_a_record_that_cannot_be_written_ends_no_run_and_says_so_when_asked(
    tmp_path: Path,
) -> None:
    logger = JsonlLogger(tmp_path / "gone" / "metrics.jsonl")
    logger.log_metrics({"train/loss": 0.5}, 7)
    with pytest.raises(UserError, match=r"cannot write \S*metrics\.jsonl: No such file") as caught:
        logger.flush()
    assert "\n" not in str(caught.value)
    logger.path.parent.mkdir()
    logger.flush()
    logger.flush()
    assert [line["step"] for line in read_metrics(logger.path)] == [7]


_FULL = """
import os, sys
from pathlib import Path
from pattlite_dist.errors import UserError
from pattlite_dist.tracking.logs import JsonlLogger
folder = Path(sys.argv[1])
def fill(name):
    try:
        with open(folder / name, "wb", buffering=0) as stream:
            while True:
                stream.write(bytes(512))
    except OSError as error:
        assert error.errno == 28
def whole():
    text = logger.path.read_text()
    assert not text or text.endswith("\\n"), text[-200:]
    return text.count("\\n")
def log(step):
    logger.log_metrics({"train/loss": step / 7, "note": "x" * (step % 5 * 40)}, step)
logger = JsonlLogger(folder / "metrics.jsonl")
log(0)
fill("foreign")
step, refused = 1, 0
while refused < 20:
    log(step)
    try:
        logger.flush()
    except UserError as error:
        refused += 1
        message = str(error)
    written = whole()
    assert written == step + 1 - refused
    step += 1
print(message)
os.unlink(folder / "foreign")
log(step)
assert whole() == step + 1
logger.flush()
assert whole() == step + 1
import json
assert [json.loads(line)["step"] for line in logger.path.open()] == list(range(step + 1))
print("all there")
"""


@pytest.mark.slow
def test_on_a_full_disk_a_line_is_written_whole_or_not_at_all_and_comes_later(
    tmp_path: Path,
) -> None:
    done = on_small_disk(tmp_path, _FULL)
    assert done.returncode == 0, done.stderr
    message, last = done.stdout.splitlines()
    assert message == f"cannot write {tmp_path}/metrics.jsonl: No space left on device; " + (
        "free some space"
    )
    assert last == "all there"


class Experiment:
    """A W&B run whose process ends."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.calls, self.ended = 0, False

    def log(self, metrics: dict[str, Any]) -> None:
        self.calls += 1
        if self.ended:
            raise ConnectionResetError("Connection lost")
        self.told.append(metrics)

    def define_metric(self, *_: Any, **__: Any) -> None:
        pass


def test_a_run_goes_on_where_wandb_ends_which_is_noted_and_told_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment, noted = Experiment(), list[bool]()
    logger = LenientWandbLogger(experiment, str(tmp_path), lambda: noted.append(True))
    logger.log_metrics({"train/loss": 0.5}, 1)
    assert experiment.told == [{"train/loss": 0.5, "trainer/global_step": 1}]
    assert (noted, capsys.readouterr()) == ([], ("", ""))
    experiment.ended = True
    for step in range(2, 5):
        logger.log_metrics({"train/loss": 0.5}, step)
    assert noted == [True]
    assert experiment.calls == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "W&B's process has ended (Connection lost); training continues, and the next start of the "
        "run tells W&B what it missed\n"
    )
