import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pattlite_dist.cli import main
from pattlite_dist.errors import UserError
from pattlite_dist.evaluation.audit import audit
from pattlite_dist.evaluation.evaluate import evaluate
from pattlite_dist.evaluation.findings import Audit
from pattlite_dist.model.build import network
from pattlite_dist.model.settings import ModelConfig
from pattlite_dist.train import checkpoint as checkpoints
from tests.conftest import tiny
from tests.evaluation.samples import settle


@pytest.fixture(scope="module")
def run(face_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    assert main(tiny(face_shards, runs)) == 0
    return runs / "tiny"


@pytest.fixture(scope="module")
def published(face_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the published network, with statistics as after many steps."""
    runs = tmp_path_factory.mktemp("runs")
    options = {"model__name": "pattlite", "model__attention": "batch", "trainer__epochs": 1}
    assert main(tiny(face_shards, runs, **options)) == 0
    path = checkpoints.best(runs / "tiny" / "checkpoints")
    content = checkpoints.load(path)
    net = network(ModelConfig(name="pattlite", attention="batch"), 48, 7)
    checkpoints.load_weights(net, content, path)
    settle(net)
    content["state_dict"] = {f"model.{name}": value for name, value in net.state_dict().items()}
    torch.save(content, path)
    return runs / "tiny"


def test_a_sound_run_has_one_accuracy(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", str(run)]) == 0
    found = Audit.model_validate_json((run / "audit.json").read_bytes())
    evaluation = evaluate(run, pictures=False)[1]
    test, clean = (evaluation.splits[part] for part in ("test", "test_clean"))  # type: ignore[index]
    assert found.independence.holds and found.independence == evaluation.independence
    assert found.samples == test.samples
    for top1 in found.top1.values():
        assert top1 == pytest.approx(test.top1)
    assert found.leaks is not None and found.blank is not None and found.selection is not None
    assert found.leaks.marked.samples == test.samples - clean.samples == 3
    assert found.leaks.others.top1 == pytest.approx(clean.top1)
    assert found.flaws["test"].leaks == 3 and found.flaws["train"].blank == 0
    assert found.selection.chosen == found.checkpoint == evaluation.checkpoint
    top1 = {item.name: item.top1 for item in found.selection.checkpoints}
    assert top1[found.checkpoint] == pytest.approx(test.top1)
    assert found.selection.gain == max(top1.values()) - top1[found.checkpoint]
    told = capsys.readouterr().out
    assert "a prediction is a function of its image alone" in told and "choosing on it" in told


def test_the_published_network_is_found_out_and_gets_no_score(
    published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(published)]) == 2
    assert "refusing to evaluate" in capsys.readouterr().err
    assert main(["audit", str(published), "--batch", "8"]) == 1
    told = capsys.readouterr().out
    assert "depends on the other images of its batch" in told
    found = Audit.model_validate_json((published / "audit.json").read_bytes())
    assert found.batch_dependent and not found.independence.holds
    assert found.independence.companions > 1e-3


def test_one_by_one_the_published_network_is_the_one_without_attention(
    published: Path, tmp_path: Path
) -> None:
    content = checkpoints.load(checkpoints.best(published / "checkpoints"))
    content["pattlite"]["config"]["model"]["attention"] = "none"
    del content["state_dict"]["model.classifier.scale"]
    torch.save(content, tmp_path / "none.ckpt")
    found = evaluate(tmp_path / "none.ckpt", pictures=False)[1]
    told = audit(published)[1]
    assert told.top1["one_by_one"] == pytest.approx(found.splits["test"].top1)


def test_a_network_that_hides_what_it_does_gets_no_score_either(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pattlite_dist.evaluation.evaluate.refuse_batch_dependent", lambda *_: None)
    with pytest.raises(UserError, match="depends on the other images of its batch"):
        evaluate(published)
    assert not (published / "evaluation.json").exists()


def test_val_is_audited_without_a_look_at_test(run: Path) -> None:
    found = audit(run, split="val")[1]
    assert found.split == "val" and found.samples == 37
    assert found.selection is None


def test_one_checkpoint_alone_is_audited_where_it_lies(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "alone.ckpt"
    path.write_bytes(checkpoints.best(run / "checkpoints").read_bytes())
    where, found = audit(path)
    assert where == tmp_path / "audit.json" and found.selection is None
    assert json.loads(where.read_text())["version"] == 1


def test_mistakes_are_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    assert main(["audit", str(tmp_path / "nothing")]) == 2
    assert main(["audit", str(run), "--batch", "0"]) == 2
    assert main(["audit", str(run), "--shards", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 3
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(UserError, match="one process"):
        audit(run)
