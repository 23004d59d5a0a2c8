"""One run, traced once and exported once in each format: PyTorch's exporters take seconds."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from pattlite_dist import Prediction, UserError, load
from pattlite_dist.cli import main
from pattlite_dist.evaluation import bootstrap
from pattlite_dist.evaluation.evaluate import evaluate
from pattlite_dist.evaluation.schema import read_evaluation
from pattlite_dist.export import export as module
from pattlite_dist.export.check import Checked, batches, require_accurate, require_equal
from pattlite_dist.export.export import export, format_of
from pattlite_dist.export.graph import WholeGraph
from pattlite_dist.model import weights
from pattlite_dist.model.attention import AttentionClassifier
from pattlite_dist.model.description import KEY, Description
from pattlite_dist.model.exported import read_exported
from pattlite_dist.predict import onnxfile
from pattlite_dist.shards.manifest import ImageInfo
from pattlite_dist.tracking.record import RECORD_NAME
from tests.conftest import ROOT, environment
from tests.ready import NAME, PHOTOGRAPH, unpack, write_run

# Runs the command line where these packages are not installed.
ALONE = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from tests.absent import Absent
finder = Absent(sys.argv.pop(1).split(","))
sys.meta_path.insert(0, finder)
from pattlite_dist.cli import main
status = main(sys.argv[1:])
assert not finder.names & sys.modules.keys()
sys.exit(status)
"""
HEAVY = ("torch", "torchvision", "pytorch_lightning", "lightning", "torchmetrics", "einops",
         "wandb", "submitit", "webdataset", "onnx", "onnxscript", "safetensors")  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def patch() -> Iterator[pytest.MonkeyPatch]:
    """What both graphs are made from is traced once."""
    trace, programs = module.graphs.program_of, []

    def once(graph: WholeGraph, image: ImageInfo) -> torch.export.ExportedProgram:
        if not programs:
            programs.append(trace(graph, image))
        return programs[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.graphs, "program_of", once)
        yield patch


@pytest.fixture(scope="module")
def run(
    face_shards: Path, tmp_path_factory: pytest.TempPathFactory, patch: pytest.MonkeyPatch
) -> Path:
    run = write_run(tmp_path_factory.mktemp("runs") / "ready", face_shards)
    (run / RECORD_NAME).write_text(
        '{"step": 12, "val/top1": 0.25}\n{"step": 38, "val/top1": 0.5}\n'
    )
    patch.setattr(bootstrap, "RESAMPLES", 100)
    evaluate(run, pictures=False)
    return run


@pytest.fixture(scope="module")
def val(face_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return unpack(face_shards, "val", tmp_path_factory.mktemp("val") / "images")


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file and its card."""
    out = tmp_path_factory.mktemp("exported") / "faces.onnx"
    assert main(["export", str(run), str(out)]) == 0
    assert sorted(path.name for path in out.parent.iterdir()) == ["faces.onnx", "faces.onnx.md"]
    return out


def table(predictions: list[Prediction]) -> Any:
    return np.array([list(one[0].probabilities.values()) for one in predictions])


def test_the_file_predicts_as_the_run_in_any_batch(
    run: Path, exported: Path, val: list[Path]
) -> None:
    ours, theirs = load(run), load(exported)
    expected = table(ours.predict(val, faces="whole"))
    assert np.ptp(expected, axis=0).max() > 0.1, "else this test shows nothing"
    assert theirs.labels == ours.labels and theirs.temperature == ours.temperature != 1
    for size in (1, 5, len(val)):
        found = theirs.predict(val[:size], faces="whole")
        assert table(found) == pytest.approx(expected[:size], abs=1e-5)


def test_the_file_says_what_it_takes_and_refuses_other_images(exported: Path) -> None:
    session = onnxruntime.InferenceSession(exported.read_bytes())
    [given], [returned] = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape[1:]) == ("images", "tensor(uint8)", [1, 48, 48])
    assert isinstance(given.shape[0], str) and returned.name == "probabilities"
    description = json.loads(session.get_modelmeta().custom_metadata_map[KEY])
    assert description["labels"][3] == "happy" and description["checkpoint"] == NAME
    assert str(ROOT) not in exported.read_bytes().decode("latin1")
    with pytest.raises(Exception, match="Got: 50 Expected: 48"):
        session.run(None, {"images": np.zeros((1, 1, 50, 48), np.uint8)})


def test_it_computes_on_as_many_threads_as_a_cpu_quota_allows(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for allowed, threads in ((None, 0), (3, 3)):
        monkeypatch.setattr(onnxfile, "fewer_cores", lambda allowed=allowed: allowed)
        session = onnxfile.read_onnx(exported)._session
        assert session.get_session_options().intra_op_num_threads == threads


def test_the_card_says_what_the_file_is_and_how_good(run: Path, exported: Path) -> None:
    _, front, text = exported.with_name("faces.onnx.md").read_text().split("---\n", 2)
    head = yaml.safe_load(front)
    assert head["pipeline_tag"] == "image-classification"
    [found] = head["model-index"][0]["results"]
    scores = json.loads((run / "evaluation.json").read_text())["splits"]["test"]
    assert found["metrics"][0] == {"type": "accuracy", "value": round(scores["top1"], 6)}
    assert NAME in text and "angry, disgust, fear" in text and "temperature" in text
    assert f"| test | 41 | {100 * scores['top1']:.1f} %" in text
    assert "on all 37 images of val" in text and "(+0.00 points)" in text
    assert f"{exported.stat().st_size:,} bytes" in text
    assert re.search(r"from random weights, for \d+ epochs, with the seed 0; epoch 3 was", text)
    assert "Top-1 on val by epoch, %: 25.0, 50.0." in text
    assert "Looks at test with checkpoints of this run: 1 (20" in text
    recipe = yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0])
    assert recipe["model"] == {"cut": 7, "width": 32, "heads": 4} and "runs" not in recipe


def test_the_hub_reads_the_cards_head(run: Path, exported: Path) -> None:
    """As `datasets` has installed it; what the Hub's own check asks for needs a network."""
    hub = pytest.importorskip("huggingface_hub")
    data = hub.ModelCard.load(exported.with_name("faces.onnx.md")).data
    assert data.library_name == "pattlite_dist" and data.model_name == "faces"
    [first, second] = data.eval_results
    assert (first.metric_type, second.metric_type) == ("accuracy", "f1")
    assert first.dataset_split == "test" and first.task_type == "image-classification"


def test_it_is_used_without_pytorch_and_lightning(
    exported: Path, run: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(ROOT), ",".join(HEAVY), "predict", str(exported),
         str(PHOTOGRAPH), "--format=jsonl", f"--draw={tmp_path / 'drawn'}"],
        env=environment(), capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [face] = json.loads(done.stdout)["faces"]
    [expected] = load(run).predict(PHOTOGRAPH)
    assert face["label"] == expected.label and face["box"] == vars(expected.box)
    assert face["confidence"] == pytest.approx(expected.confidence, abs=1e-4)
    with Image.open(tmp_path / "drawn" / "photograph.jpg") as drawn:
        assert drawn.size == (224, 224)
    code = "import sys; sys.modules['torch'] = None; import pattlite_dist as p; p.load(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(run)],
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "requires PyTorch" in done.stderr.splitlines()[-1]


def test_each_picture_has_its_rows_and_a_bad_one_is_named(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = tmp_path / "album"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.png").write_bytes(PHOTOGRAPH.read_bytes())
    Image.new("RGB", (300, 200), "white").save(folder / "deep" / "b.jpg")
    (folder / "c.png").write_bytes(PHOTOGRAPH.read_bytes()[:5000])
    (folder / "notes.txt").write_text("no picture")
    command = ["predict", str(exported), str(folder)]
    assert main([*command, "--format=csv"]) == 1
    told = capsys.readouterr()
    face, none = csv.DictReader(io.StringIO(told.out))
    assert face["source"].endswith("a.png") and float(face["score"]) > 0.8
    assert float(face["p(happy)"]) <= float(face["confidence"])
    assert none["source"].endswith("b.jpg") and none["label"] == "no face" and not none["left"]
    assert "not read" in told.err and "c.png: it is truncated or damaged" in told.err
    assert "passed over what is no picture: 1 .txt" in told.err
    assert main([*command, "--min-confidence=1", "--draw", str(tmp_path / "drawn")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["label", "unsure", "no"]
    assert {p.name for p in (tmp_path / "drawn").iterdir()} == {"a.jpg", "b.jpg"}
    (folder / "c.png").unlink()
    odd = os.fsencode(folder) + b"/x=\xff.png"
    os.rename(folder / "a.png", odd)  # noqa: PTH104  not UTF-8
    pattern = f"{folder}/**/*.*g"
    assert main(["predict", str(exported), pattern, "--format=jsonl"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [len(row["faces"]) for row in rows] == [0, 1]
    assert rows[1]["source"].endswith("x=\ufffd.png")
    monkeypatch.chdir(folder)
    assert main(["predict", str(exported), os.fsdecode(b"x=\xff.png")]) == 0


def test_paths_on_standard_input_are_answered_one_by_one(
    exported: Path, val: list[Path], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    answered = []

    class Lines:
        def __iter__(self) -> Any:
            for path in val[:3]:
                yield f"{path}\n\n"
                answered.append(capsys.readouterr().out)

    monkeypatch.setattr(sys, "stdin", Lines())
    command = ["predict", str(exported), str(val[5]), "-", "--faces=whole", "--format=jsonl"]
    assert main(command) == 0
    assert [len(text.splitlines()) for text in answered] == [2, 1, 1]


def test_where_nothing_can_be_read_it_fails(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, message in [
        (["nowhere.png"], "nothing could be read: cannot read nowhere.png"),
        ([f"{tmp_path}/*.png"], "matches no file"),
        ([str(tmp_path)], "contains no picture"),
        (["a.png", 300 * "b"], "none of 2 sources"),
    ]:
        assert main(["predict", str(exported), *words]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("pattlite: error: ") and message in error


def test_safetensors_are_the_run_bit_for_bit(
    run: Path, val: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "faces.safetensors"
    assert main(["export", str(run / "checkpoints" / NAME), str(out)]) == 0
    assert "val top-1" in capsys.readouterr().out
    expected = table(load(run).predict(val, faces="whole"))
    assert np.array_equal(table(load(out).predict(val, faces="whole")), expected)


@pytest.fixture(scope="module")
def installed(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The run in half precision, as if it had come with the package."""
    folder = tmp_path_factory.mktemp("weights")
    export(run, folder / "tiny.safetensors", "safetensors-half")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "FOLDER", folder)
        yield folder / "tiny.safetensors"


def test_half_precision_takes_half_the_space_and_hardly_moves_a_probability(
    run: Path, installed: Path, val: list[Path], tmp_path: Path
) -> None:
    export(run, tmp_path / "whole.safetensors")
    assert installed.stat().st_size < 0.56 * (tmp_path / "whole.safetensors").stat().st_size
    expected, found = (table(load(x).predict(val, faces="whole")) for x in (run, installed))
    assert 0 < np.abs(found - expected).max() < 0.01
    state = read_exported(installed)[1]
    assert {value.dtype for value in state.values()} == {torch.float32, torch.int64}


def test_what_half_precision_cannot_hold_stays_as_it_is(run: Path, tmp_path: Path) -> None:
    net = nn.Linear(2, 2)
    with torch.no_grad():
        net.bias[0] = 1e6
    description = load(run)._network.description
    (tmp_path / "a.safetensors").write_bytes(module.graphs.to_safetensors(net, description, True))
    state = read_exported(tmp_path / "a.safetensors")[1]
    assert torch.equal(state["bias"], net.bias)
    assert torch.equal(state["weight"], net.weight.half().float())


def test_an_exported_file_says_nothing_of_the_machine_that_trained(
    run: Path, installed: Path, face_shards: Path
) -> None:
    content = installed.read_bytes().decode("latin1")
    config = read_exported(installed)[0].config
    assert config is not None and config["data"]["shards"] == face_shards.name
    for place in (run.parent, face_shards.parent):
        assert str(place) not in content


def test_a_network_that_comes_with_the_package_is_used_by_its_name(
    run: Path, installed: Path, face_shards: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert load("pretrained").temperature == load("pretrained:tiny").temperature != 1
    assert load("pretrained").checkpoint == NAME
    assert main(["predict", "pretrained:tiny", str(PHOTOGRAPH), "--faces=whole"]) == 0
    assert main(["export", "pretrained", "again.safetensors"]) == 2
    assert "does not say where the shards faces are; give" in capsys.readouterr().err
    Path("more.md").write_text("Looked at by another eye.\n")
    command = ["export", "pretrained", "again.safetensors", f"--shards={face_shards}"]
    assert main([*command, "--notes=more.md"]) == 0
    assert "## Training" in (card := Path("again.safetensors.md").read_text())
    assert "another eye" in card and "Looks at test" not in card
    assert load("again.safetensors").temperature == load(run).temperature
    command = ["evaluate", "pretrained:tiny", f"--shards={face_shards}", "--pictures=false"]
    assert main(command) == 0
    found, theirs = (read_evaluation(x) for x in (Path("tiny-evaluation"), run))
    assert found.splits["test"].top1 == pytest.approx(theirs.splits["test"].top1, abs=0.05)
    assert found.calibration is not None and theirs.calibration is not None
    assert found.calibration.temperature == theirs.calibration.temperature
    assert main(["audit", "again.safetensors", f"--shards={face_shards}"]) == 0
    assert {path.name for path in Path().iterdir()} == {
        "again.safetensors", "again.safetensors.md", "again-evaluation", "tiny-evaluation",
        "more.md",
    }  # fmt: skip
    names = {path.name for path in Path().glob("*-evaluation/*")}
    assert names == {"evaluation.json", "predictions.npz", "audit.json"}
    assert main(["calibrate", "again.safetensors"]) == 2
    assert "contains its temperature" in capsys.readouterr().err
    assert sorted(path.name for path in installed.parent.iterdir()) == [
        "tiny.safetensors", "tiny.safetensors.md",
    ]  # fmt: skip


def test_a_pt2_file_is_one_of_pytorch(run: Path, val: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "faces.pt2"
    export(run, out)
    images = torch.stack([torch.from_numpy(np.array(Image.open(path)))[None] for path in val])
    found = torch.export.load(out).module()(images)
    expected = table(load(run).predict(val, faces="whole"))
    assert found.numpy() == pytest.approx(expected, abs=1e-5)


def test_int8_is_smaller_and_its_loss_is_in_the_card(
    run: Path, exported: Path, val: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "small.onnx"
    monkeypatch.setattr(module.graphs, "to_onnx", lambda *_: exported.read_bytes())
    card, found = export(run, out, "onnx-int8")
    assert out.stat().st_size < 0.7 * exported.stat().st_size
    assert f"({100 * (found.top1 - found.top1_run):+.2f} points)" in card.read_text()
    expected = table(load(run).predict(val, faces="whole"))
    moved = np.abs(table(load(out).predict(val, faces="whole")) - expected)
    assert 1e-4 < moved.max() < 0.3
    assert moved.max() == pytest.approx(found.difference, abs=0.02)


def test_a_file_that_differs_is_not_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = module.graphs.to_safetensors

    def wrong(model: nn.Module, description: Description, half: bool) -> bytes:
        return right(model, description.model_copy(update={"temperature": 1.01}), half)

    monkeypatch.setattr(module.graphs, "to_safetensors", wrong)
    out = tmp_path / "out" / "faces.safetensors"
    assert main(["export", str(run), str(out)]) == 2
    assert "differs from PyTorch's by" in capsys.readouterr().err
    assert not out.parent.exists()


def test_a_file_that_cannot_be_written_leaves_no_card(run: Path, tmp_path: Path) -> None:
    (tmp_path / "faces.safetensors").mkdir()
    with pytest.raises(UserError, match="cannot write"):
        export(run, tmp_path / "faces.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["faces.safetensors"]


def test_what_cannot_be_exported_is_said(run: Path, face_shards: Path, tmp_path: Path) -> None:
    published = write_run(tmp_path / "b", face_shards, name="pattlite", attention="batch")
    with pytest.raises(UserError, match=r"refusing to export: .*model\.attention=batch"):
        export(published, tmp_path / "b.onnx")
    with pytest.raises(UserError, match="nowhere"):
        export(run, tmp_path / "faces.onnx", shards=str(tmp_path / "nowhere"))
    for name, form, message in [
        ("faces", None, r"ends in \.safetensors, \.onnx, \.pt2"),
        ("faces.onnx", "pt2", r"must have a name in \.pt2"),
    ]:
        with pytest.raises(UserError, match=message):
            format_of(Path(name), form)  # type: ignore[arg-type]
    assert format_of(Path("a.onnx"), None) == "onnx"


def test_what_differs_or_has_lost_too_much_is_refused() -> None:
    require_equal(Checked(9, 0.5, 0.5, 9e-5))
    require_accurate(Checked(9, 0.46, 0.5, 0.3))
    for difference in (2e-4, float("nan")):
        with pytest.raises(UserError, match="differs from PyTorch's"):
            require_equal(Checked(9, 0.5, 0.5, difference))
    with pytest.raises(UserError, match=r"int8 loses 6\.0 points"):
        require_accurate(Checked(9, 0.44, 0.5, 0.3))
    assert [len(places) for places in batches(100)] == [1, 3, 17, 64, 15]
    assert np.concatenate(list(batches(100))).tolist() == list(range(100))


def test_the_papers_classifier_exports_for_any_batch() -> None:
    """`len` of a tensor would fix the batch to that of the example."""
    net = AttentionClassifier(8, 3, width=4).eval()
    batch = torch.export.Dim("n")
    program = torch.export.export(net, (torch.rand(2, 4, 8),), dynamic_shapes=({0: batch},))
    patches = torch.rand(5, 4, 8)
    assert torch.allclose(program.module()(patches), net(patches), atol=1e-6)
