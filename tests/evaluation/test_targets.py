import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from pattlite_dist.cli import main, parse
from pattlite_dist.commands.options import given_config
from pattlite_dist.config import Config, to_tree, to_yaml
from pattlite_dist.data.folds import folds_of
from pattlite_dist.data.targets import load_targets
from pattlite_dist.evaluation.evaluate import collect
from pattlite_dist.evaluation.subject import read_subject
from pattlite_dist.evaluation.targets import Softened, make_targets
from pattlite_dist.model.build import build_model
from pattlite_dist.runtime.world import World
from pattlite_dist.shards.manifest import load_manifest
from tests.conftest import ROOT, tiny, with_labels


def untrained(
    shards: Path, folder: Path, seed: int, labels: Sequence[str] = (), **overrides: object
) -> Path:
    """The folder of a run whose only checkpoint has random weights."""
    words = tiny(shards, folder.parent, folder.name, seed=seed, trainer__eval_batch=64, **overrides)
    config: Config = given_config(parse("train", words[1:]))
    manifest = load_manifest(shards)
    labels = list(labels or manifest.labels)
    torch.manual_seed(seed)
    model = build_model(config.model, config.data.image_size, len(labels))
    about = {"config": to_tree(config), "labels": labels, "shards": manifest.fingerprint()}
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    content = {"pattlite": about, "state_dict": state, "epoch": 0, "global_step": 13}
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(config))
    torch.save(content, folder / "checkpoints" / "epoch=0001-step=00000013-top1=0.5000.ckpt")
    return folder


@pytest.fixture(scope="module")
def runs(face_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [untrained(face_shards, folder / f"run-{seed}", seed) for seed in (0, 1)]


def predicted(run: Path, view: str = "flip", temperature: float = 1.0) -> np.ndarray:
    """What an evaluation would predict for the training samples."""
    subject = read_subject(run)
    model = subject.build()
    data = subject.stream(model, subject.find_manifest(), World())
    model = Softened(subject.load(model, torch.device("cpu")), temperature).eval()  # type: ignore[assignment]
    found = collect(model, data, "train", torch.device("cpu"), ["one", "flip"])
    return found.probabilities[view]  # type: ignore[index]


def test_a_target_is_the_mean_over_runs_of_what_they_predict(
    runs: list[Path], face_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "soft.safetensors"
    assert main(["targets", *map(str, runs), str(out)]) == 0
    said = capsys.readouterr().out
    assert "104 samples of train, each the mean of 2 of 2 run(s), view flip" in said
    found = load_targets(out)
    expected = (predicted(runs[0]) + predicted(runs[1])) / 2
    assert np.abs(found.shares - expected).max() < 1e-3
    assert found.shares.sum(1) == pytest.approx(1, abs=1e-6)
    assert (found.runs == 2).all()
    manifest = load_manifest(face_shards)
    assert (found.facts.manifest, found.facts.labels) == (manifest.fingerprint(), manifest.labels)
    assert [run.run for run in found.facts.runs] == ["run-0", "run-1"]
    first = out.read_bytes()
    assert main(["targets", *map(str, runs), str(out)]) == 0
    assert out.read_bytes() == first


def test_a_temperature_softens_before_the_mean(runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "soft.safetensors"
    made, _ = make_targets([runs[0]], out, view="one", temperature=3.0)
    assert made.shares == pytest.approx(predicted(runs[0], "one", 3.0), abs=1e-12)
    assert made.shares.max() < predicted(runs[0], "one").max()


def test_columns_follow_the_class_names(
    runs: list[Path], face_shards: Path, tmp_path: Path
) -> None:
    labels = load_manifest(face_shards).labels
    other = tmp_path / "turned"
    checkpoint = next((runs[0] / "checkpoints").iterdir())
    content = torch.load(checkpoint, weights_only=True)
    content["pattlite"]["labels"] = labels[::-1]
    other.mkdir()
    torch.save(content, other / checkpoint.name)
    made, _ = make_targets([other / checkpoint.name], tmp_path / "a.safetensors", view="one")
    assert np.array_equal(made.shares, predicted(runs[0], "one")[:, ::-1])


def test_runs_that_left_out_a_fold_are_asked_about_that_alone(
    runs: list[Path], face_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "soft.safetensors"
    parts = [
        untrained(face_shards, tmp_path / f"part-{fold}", fold, data__folds=3, data__fold=fold)
        for fold in range(3)
    ]
    made, _ = make_targets(parts, out, view="one")
    subject = read_subject(parts[0])
    reader = subject.stream(subject.build(), subject.find_manifest(), World()).reader("train")
    folds = folds_of(reader, 3)
    for fold, part in enumerate(parts):
        own = folds == fold
        assert own.any() and np.array_equal(made.shares[own], predicted(part, "one")[own])
    assert (made.runs == 1).all()
    out.unlink()
    for words, message in [
        (parts[:2], "are in no fold that a run left out (given: 0 of 3, 1 of 3)"),
        ([*parts, runs[0]], "run-0 was trained on all samples, but "),
    ]:
        assert main(["targets", *map(str, words), str(out)]) == 2
        assert message in capsys.readouterr().err
    assert not out.exists()


def test_the_commands_of_the_documentation_are_read() -> None:
    text = (ROOT / "docs" / "distillation.md").read_text()
    commands = [line.split()[2:] for line in text.splitlines() if line.startswith("$ pattlite ")]
    assert {verb for verb, *_ in commands} == {"train", "targets"}
    for verb, *words in commands:
        options = parse(verb, words)
        if verb == "train":
            given_config(options)


def test_what_cannot_be_is_one_line_and_writes_nothing(
    runs: list[Path], face_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "soft.safetensors"
    gloomy = with_labels(face_shards, tmp_path / "gloomy", "sad", "gloomy")
    elsewhere = untrained(gloomy, tmp_path / "elsewhere", 2)
    batch = untrained(
        face_shards, tmp_path / "batch", 3, model__name="pattlite", model__attention="batch"
    )
    first = str(runs[0])
    for words, message in [
        ([first, str(runs[1])], "run-1: the last argument is the file to write"),
        ([first, first, str(out)], "a checkpoint is given twice"),
        ([first, str(elsewhere), str(out)], "were trained on different shards"),
        ([first, str(out), "--shards", str(gloomy)], "but the shards have"),
        ([str(batch), str(out)], "refusing to make targets"),
        ([first, str(out), "--temperature", "0"], "temperature"),
    ]:
        assert main(["targets", *words]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert message in error, json.dumps(error)
    assert not out.exists()
