import json
import time
from pathlib import Path

import pytest

from pattlite_dist.tracking.curves import CURVES_NAME, draw_what_is_new
from pattlite_dist.tracking.record import RECORD_NAME


def record(run: Path, *lines: dict[str, float]) -> None:
    (run / RECORD_NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_curves_are_drawn_when_there_is_something_new(tmp_path: Path) -> None:
    picture = tmp_path / CURVES_NAME
    draw_what_is_new(tmp_path)
    record(tmp_path, {"step": 0, "train/loss": 1.0})
    draw_what_is_new(tmp_path)
    assert not picture.exists()  # no epoch has ended
    epoch = {"step": 0, "epoch": 0, "val/top1": 0.5, "time": time.time() - 1}
    record(tmp_path, {"step": 0, "train/loss": 1.0}, epoch)
    draw_what_is_new(tmp_path)
    assert picture.read_bytes().startswith(b"\x89PNG")
    drawn = picture.with_suffix(".svg").read_text()
    assert all(f"<!-- {text} -->" in drawn for text in (tmp_path.name, "epoch", "chosen: epoch 1"))
    for panel in ("loss", "accuracy", "learning-rate"):
        alone = (tmp_path / f"curves-{panel}.svg").read_text()
        assert all(f"<!-- {text} -->" in alone for text in (tmp_path.name, panel.replace("-", " ")))
        assert (tmp_path / f"curves-{panel}.png").read_bytes().startswith(b"\x89PNG")
    before = picture.stat().st_mtime_ns
    record(tmp_path, epoch, {"step": 1, "train/loss": 1.0, "time": time.time()})
    draw_what_is_new(tmp_path)
    assert picture.stat().st_mtime_ns == before
    record(tmp_path, epoch, {**epoch, "step": 1, "time": time.time() + 1})
    draw_what_is_new(tmp_path)
    assert picture.stat().st_mtime_ns > before


def test_what_cannot_be_drawn_hides_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / RECORD_NAME).mkdir()
    draw_what_is_new(tmp_path)
    assert f"cannot draw {tmp_path / CURVES_NAME}: " in capsys.readouterr().err
