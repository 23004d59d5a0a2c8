import json
from pathlib import Path

from pattlite_dist.tracking.record import read_metrics, rewind_metrics


def test_rewinding_forgets_steps_that_come_again_and_a_cut_off_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "train/loss": 1.0}) for step in range(5)]
    path.write_text("\n".join(lines) + '\n{"step": 5, "tra')
    rewind_metrics(path, 3)
    assert [line["step"] for line in read_metrics(path)] == [0, 1, 2]
    assert path.read_text().endswith("\n")
    rewind_metrics(tmp_path / "none.jsonl", 3)
    assert not (tmp_path / "none.jsonl").exists()


def test_before_an_epochs_end_what_was_noted_of_it_comes_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    of_step = [{"step": s, key: 1.0} for s in (1, 2) for key in ("train/loss", "time/steps")]
    ends = [{"step": s, key: 0.5} for s in (1, 2) for key in ("val/top1", "train/top1")]
    path.write_text("".join(json.dumps(line) + "\n" for line in [*of_step, *ends]))
    rewind_metrics(path, 3)
    assert read_metrics(path) == [*of_step, *ends]
    rewind_metrics(path, 3, scored=False)
    assert read_metrics(path) == [*of_step, *ends[:2]]
