import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pattlite_dist.cli import main
from pattlite_dist.evaluate import evaluate
from tests.conftest import Run, tiny


@pytest.fixture(scope="module")
def run(face_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    assert main(tiny(face_shards, runs)) == 0
    return runs / "tiny"


def report(run: Path) -> Any:
    return json.loads((run / "evaluation.json").read_text())


def test_the_report_says_what_was_scored(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run)]) == 0
    found = report(run)
    splits = found["splits"]
    assert {name: split["samples"] for name, split in splits.items()} == {
        "val": 37, "test": 41, "test_clean": 38,
    }  # fmt: skip
    for split in splits.values():
        matrix = torch.tensor(split["confusion"])
        assert matrix.sum() == split["samples"]
        assert split["top1"] == pytest.approx(float(matrix.trace() / matrix.sum()))
        recall = matrix.diag() / matrix.sum(1)
        assert list(split["recall"].values()) == pytest.approx(recall.tolist())
    assert found["checkpoint"].startswith("epoch=")
    assert (run / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert "test_clean" in capsys.readouterr().out


def test_it_scores_the_checkpoint_as_training_did(run: Path) -> None:
    evaluate(run)
    found = report(run)
    assert f"top1={found['splits']['val']['top1']:.4f}" in found["checkpoint"]


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_any_number_of_processes_gives_the_same_report(
    run: Path, pattlite: Run, ranks: int
) -> None:
    evaluate(run)
    alone = report(run)
    (run / "evaluation.json").unlink()
    done = pattlite("evaluate", str(run), ranks=ranks)
    assert done.returncode == 0, done.stderr
    assert report(run) == alone


def test_a_single_checkpoint_file_can_be_scored(run: Path) -> None:
    path = next((run / "checkpoints").iterdir())
    assert evaluate(path)[0] == run


def test_no_run_no_checkpoint_or_other_weights_are_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    broken = tmp_path / "broken.ckpt"
    content = torch.load(next((run / "checkpoints").iterdir()), weights_only=True)
    content["state_dict"].pop(next(iter(content["state_dict"])))
    torch.save(content, broken)
    for target in (tmp_path / "nowhere", tmp_path / "empty", broken):
        assert main(["evaluate", str(target)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("pattlite: error: ")
        assert error.count("\n") == 1


def test_shards_that_do_not_match_their_manifest_are_refused(
    run: Path, face_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    for path in face_shards.iterdir():
        data = bytearray(path.read_bytes())
        if path.name == "test-000000.tar":
            data[700] ^= 1
        (bad / path.name).write_bytes(data)
    options = [f"--data.cache={tmp_path / 'cache'}", f"--runs={tmp_path}"]
    assert main([*tiny(bad, tmp_path, trainer__epochs=1), *options]) == 0  # train and val are whole
    assert main(["evaluate", str(tmp_path / "tiny")]) == 2
    error = capsys.readouterr().err
    assert "test-000000.tar differs from its manifest" in error
    assert not (tmp_path / "tiny" / "evaluation.json").exists()
