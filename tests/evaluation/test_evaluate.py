import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pattlite_dist.cli import main
from pattlite_dist.errors import UserError
from pattlite_dist.evaluation.calibrating import calibrate_run
from pattlite_dist.evaluation.evaluate import evaluate, parts
from pattlite_dist.evaluation.predictions import Predictions, load_predictions
from pattlite_dist.evaluation.schema import read_evaluation
from pattlite_dist.evaluation.scores import score
from pattlite_dist.evaluation.subject import read_subject, set_name
from pattlite_dist.shards.manifest import Findings, load_manifest
from pattlite_dist.shards.tario import LEAK
from pattlite_dist.tracking.folder import load_config
from pattlite_dist.train import checkpoint as checkpoints
from tests.conftest import Run, tiny, with_labels
from tests.evaluation.samples import predictions


@pytest.fixture(scope="module")
def run(face_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    assert main(tiny(face_shards, runs)) == 0
    return runs / "tiny"


def read_calibration(run: Path) -> Any:
    return json.loads((run / "calibration.json").read_text())


def report(run: Path) -> Any:
    return json.loads((run / "evaluation.json").read_text())


def test_training_has_calibrated_the_best_checkpoint(run: Path) -> None:
    fitted = read_calibration(run)
    _, again = calibrate_run(run)
    assert again.checkpoint == fitted["checkpoint"] and again.step == fitted["step"]
    assert again.epoch == fitted["epoch"] and again.manifest == fitted["manifest"]
    assert again.temperature == pytest.approx(fitted["temperature"], rel=1e-5) != 1
    assert again.nll == pytest.approx(fitted["nll"], rel=1e-5)


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
        low, high = split["top1_interval"]
        assert low <= split["top1"] <= high
    assert found["checkpoint"].startswith("epoch=")
    assert found["calibration"]["ece"].keys() == splits.keys()
    fitted = read_calibration(run)
    assert fitted["temperature"] == found["calibration"]["temperature"]
    assert fitted["ece"] == [splits["val"]["ece"], found["calibration"]["ece"]["val"]]
    assert fitted["checkpoint"] == found["checkpoint"]
    for name in ("confusion", "reliability", "precision_recall", "mistakes"):
        assert (run / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    told = capsys.readouterr().out
    assert "test_clean" in told and "predictions.npz" in told


def test_the_scores_follow_from_the_saved_predictions(run: Path) -> None:
    evaluate(run, views=["one", "flip"], pictures=False)
    found = read_evaluation(run)
    splits = load_predictions(run / found.predictions.name, found.predictions.sha256, found.views)
    parts = {**splits, "test_clean": splits["test"].clean()}
    for view, scores in found.of_views().items():
        assert scores == {part: score(parts[part], found.labels, view) for part in scores}
    with np.load(run / found.predictions.name) as file:
        assert len(file["test.row"]) == len(set(file["test.row"].tolist())) == 41
        assert "test.file" not in file  # the faces come from a CSV


def test_a_further_view_changes_nothing_in_the_one(run: Path) -> None:
    evaluate(run, pictures=False)
    alone = report(run)
    assert alone["views"] == ["one"] and alone["more_views"] == {}
    assert main(["evaluate", str(run), "--views", "flip,ten-crop", "--pictures=false"]) == 0
    more = report(run)
    assert more["views"] == ["one", "flip", "ten-crop"]
    assert more["splits"] == alone["splits"]
    nlls = [more["more_views"][view]["test"]["nll"] for view in ("flip", "ten-crop")]
    assert len({more["splits"]["test"]["nll"], *nlls}) == 3
    assert main(["evaluate", str(run), "--views", "two"]) == 2


def test_it_scores_the_checkpoint_as_training_did(run: Path) -> None:
    evaluate(run, pictures=False)
    found = report(run)
    assert f"top1={found['splits']['val']['top1']:.4f}" in found["checkpoint"]


@pytest.mark.slow
def test_two_processes_give_the_same_report_bit_for_bit(run: Path, forked: Run) -> None:
    evaluate(run, views=["one", "flip"], pictures=False)
    names = ("evaluation.json", "predictions.npz")
    alone = [(run / name).read_bytes() for name in names]
    for name in names:
        (run / name).unlink()
    done = forked("evaluate", str(run), "--views", "flip", "--pictures=false", ranks=2)
    assert done.returncode == 0, done.stderr
    assert [(run / name).read_bytes() for name in names] == alone


def test_a_single_checkpoint_file_can_be_scored(run: Path) -> None:
    path = next((run / "checkpoints").iterdir())
    assert evaluate(path, pictures=False)[0] == run


def test_the_folder_of_the_checkpoints_means_their_run(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_subject(run / "checkpoints").run == run
    monkeypatch.chdir(run / "checkpoints")
    assert read_subject(Path()).run.resolve() == run
    name = next(Path().glob("*.ckpt"))
    assert read_subject(name).run.resolve() == run


def test_changed_shards_are_refused_and_given_ones_are_scored_in_a_folder_of_their_own(
    run: Path, face_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = evaluate(run, pictures=False)[1]
    before = (run / "evaluation.json").read_bytes()
    other = with_labels(face_shards, tmp_path / "other", "sad", "gloomy")
    changed = tmp_path / "run"
    shutil.copytree(run, changed)
    text = (changed / "config.yaml").read_text()
    (changed / "config.yaml").write_text(text.replace(str(face_shards), str(other)))
    for verb in ("evaluate", "audit"):
        assert main([verb, str(changed)]) == 2
        error = capsys.readouterr().err
        assert f"trained on other shards than those in {other} (fingerprint " in error
        assert f"with `--shards {other}`" in error and error.count("\n") == 1
    assert (changed / "evaluation.json").read_bytes() == before

    # The same shards in another place are the run's own.
    moved = str(shutil.copytree(face_shards, tmp_path / "moved"))
    assert evaluate(run, moved, pictures=False)[0] == run
    # Of others, the classes are scored that the network knows.
    assert main(["evaluate", str(run), "--shards", str(other), "--pictures=false"]) == 0
    told = capsys.readouterr().out
    assert "scored over the classes that both have: angry, disgust, fear, happy, surprise" in told
    assert "left out: samples of gloomy" in told
    assert "left out: the network's outputs for sad" in told
    found = read_evaluation(run / "evaluation" / "other")
    assert (found.only_network, found.only_shards) == (["sad"], ["gloomy"])
    sad = own.labels.index("sad")
    kept = {
        part: scores.samples - sum(scores.confusion[sad]) for part, scores in own.splits.items()
    }
    assert {part: scores.samples for part, scores in found.splits.items()} == kept
    for part, scores in found.splits.items():  # what is no longer taken for sad can only be right
        right = sum(own.splits[part].confusion[i][i] for i in range(7) if i != sad)
        assert scores.top1 * scores.samples >= right - 1e-6
    assert main(["audit", str(run), "--shards", str(other)]) == 2
    assert "audit on shards with the same" in capsys.readouterr().err
    # A further set of that name does not replace its scores.
    third = with_labels(face_shards, tmp_path / "third" / "other", "fear", "fright")
    folder = evaluate(run, str(third), pictures=False)[0]
    assert folder.name == f"other-{load_manifest(third).fingerprint()[:8]}"
    assert read_evaluation(run / "evaluation" / "other") == found
    assert read_evaluation(run).splits == own.splits


def test_a_run_that_names_its_shards_by_a_relative_path_is_told_from_another_folder(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "run"
    shutil.copytree(run, old)
    text = (old / "config.yaml").read_text()
    (old / "config.yaml").write_text(text.replace(load_config(run).data.shards, "shards/faces"))
    monkeypatch.chdir("/")
    with pytest.raises(UserError, match=r"shards/faces, which is not in this folder; start in the"):
        read_subject(old).find_manifest()


@pytest.mark.parametrize(
    ("shards", "name"),
    [
        ("shards/rafdb/", "rafdb"), ("/data/a b", "a-b"), ("s3://bucket/sets/fer", "fer"),
        ("https://me:secret@host/x/fer?sig=secret", "fer"), ("pipe:cat x/{name}", "name"),
        ("https://host", "host"), ("/data/..x", "x"),
    ],
)  # fmt: skip
def test_the_scores_on_other_shards_have_the_name_of_their_place(shards: str, name: str) -> None:
    assert set_name(shards) == name


def content_of(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = checkpoints.load(checkpoints.best(run / "checkpoints"))
    return content


def test_what_wrapped_the_network_makes_no_difference(run: Path, tmp_path: Path) -> None:
    evaluate(run, pictures=False)
    content = content_of(run)
    content["state_dict"] = {
        f"_orig_mod.module.{name}": value for name, value in content["state_dict"].items()
    }
    torch.save(content, tmp_path / "renamed.ckpt")
    where, found = evaluate(tmp_path / "renamed.ckpt", pictures=False)
    assert where == tmp_path
    assert found.splits == read_evaluation(run).splits
    assert found.predictions == read_evaluation(run).predictions


class Code:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.victim,)


def test_what_cannot_be_scored_is_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(target: Path, told: str) -> None:
        assert main(["evaluate", str(target)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("pattlite: error: ")
        assert error.count("\n") == 1
        assert told in error

    def changed(**state: torch.Tensor | None) -> Path:
        content = content_of(run)
        for key, value in state.items():
            name = next(name for name in content["state_dict"] if name.endswith(key))
            content["state_dict"].pop(name)
            if value is not None:
                content["state_dict"][name] = value
        path = tmp_path / "changed.ckpt"
        torch.save(content, path)
        return path

    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    refused(tmp_path / "empty", "no checkpoint in ")
    refused(tmp_path / "empty" / "checkpoints", f"no checkpoint in {tmp_path}/empty/checkpoints; ")
    refused(tmp_path, f"{tmp_path} is not a run folder: it has no folder `checkpoints`; give a run")
    refused(tmp_path, f"; {tmp_path} contains empty")
    refused(tmp_path / "nowhere", "does not exist")
    refused(run / "config.yaml", "not a safe file of tensors")
    whole = checkpoints.best(run / "checkpoints").read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "cut.ckpt", "is cut off")
    torch.save({"state_dict": {"model.x": torch.zeros(1)}}, tmp_path / "other.ckpt")
    refused(tmp_path / "other.ckpt", "not a pattlite_dist checkpoint")
    torch.save({**content_of(run), "more": Code(tmp_path / "touched")}, tmp_path / "bad.ckpt")
    refused(tmp_path / "bad.ckpt", "not a safe file of tensors")
    assert not (tmp_path / "touched").exists()
    refused(changed(**{"head.bias": None}), "head.bias is missing")
    refused(changed(**{"head.bias": torch.zeros(9)}), "head.bias has shape [9], the network [7]")
    refused(changed(**{"head.bias": torch.full((7,), torch.nan)}), "NaN or infinite values in")
    refused(changed(running_var=torch.full((16,), torch.inf)), "NaN or infinite values in")
    content = content_of(run)
    content["pattlite"]["config"]["model"]["name"] = "pattlite"
    torch.save(content, tmp_path / "model.ckpt")
    refused(tmp_path / "model.ckpt", "does not fit the network of its configuration")
    content["pattlite"]["config"]["model"]["name"] = "resnet"
    torch.save(content, tmp_path / "model.ckpt")
    refused(tmp_path / "model.ckpt", "model.name")
    assert not list(tmp_path.glob("evaluation.json"))


def test_finite_weights_whose_outputs_are_not_get_no_score(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = content_of(run)
    content["state_dict"]["model.head.weight"] += 3e38
    torch.save(content, tmp_path / "large.ckpt")
    assert main(["evaluate", str(tmp_path / "large.ckpt")]) == 2
    assert "outputs are NaN or infinite for" in capsys.readouterr().err
    assert not (tmp_path / "evaluation.json").exists()


def test_the_clean_test_is_scored_only_where_copies_are_marked(run: Path) -> None:
    splits: dict[Any, Predictions] = {"val": predictions(9), "test": predictions(20)}
    manifest = load_manifest(Path(load_config(run).data.shards))

    def scored(leaks: int, marks: str) -> list[str]:
        findings = {**manifest.findings, "test": Findings(leaks=leaks)}
        options = manifest.options.model_copy(update={"leaks": marks})
        update = {"findings": findings, "options": options}
        return list(parts(splits, manifest.model_copy(update=update)))

    assert scored(4, "flag") == ["val", "test", "test_clean"]
    assert scored(4, "keep") == ["val", "test"]
    with pytest.raises(UserError, match="counts 3 samples of test with a copy in train, but 4 are"):
        scored(3, "flag")
    splits["test"] = splits["test"].where(splits["test"].flags & LEAK > 0)
    assert scored(4, "flag") == ["val", "test"]


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
    assert main([*tiny(bad, tmp_path, trainer__epochs=1), *options]) == 0  # both are intact
    assert main(["evaluate", str(tmp_path / "tiny")]) == 2
    error = capsys.readouterr().err
    assert "test-000000.tar differs from its manifest" in error
    assert not (tmp_path / "tiny" / "evaluation.json").exists()
