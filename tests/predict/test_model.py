import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pattlite_dist
from pattlite_dist import Model, Prediction, UserError, load
from pattlite_dist.cli import main
from pattlite_dist.evaluation.collect import collect
from pattlite_dist.evaluation.subject import read_subject
from pattlite_dist.runtime.world import detect
from pattlite_dist.train.temperature import tempered
from tests.conftest import environment
from tests.ready import NAME, PHOTOGRAPH, unpack, write_run


@pytest.fixture(scope="module")
def run(face_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "ready", face_shards)


@pytest.fixture(scope="module")
def model(run: Path) -> Model:
    return load(run)


@pytest.fixture(scope="module")
def val(face_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return unpack(face_shards, "val", tmp_path_factory.mktemp("val") / "images")


def table(predictions: list[Prediction]) -> Any:
    return np.array([list(one[0].probabilities.values()) for one in predictions])


def test_importing_the_package_imports_nothing_else() -> None:
    code = (
        "import sys, time; t = time.process_time(); import pattlite_dist; "
        "assert time.process_time() - t < 0.2; "
        "print([m for m in ('torch', 'numpy', 'PIL', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_public_names_are_there_and_no_others() -> None:
    assert all(getattr(pattlite_dist, name) is not None for name in pattlite_dist.__all__)
    assert set(pattlite_dist.__all__) <= set(dir(pattlite_dist))
    with pytest.raises(AttributeError, match="has no attribute 'lode'"):
        pattlite_dist.lode  # noqa: B018


def test_it_predicts_as_evaluate_does_and_then_calibrated(
    run: Path, val: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    before = load(run)
    assert before.temperature is None
    plain = table(before.predict(val, faces="whole"))
    one = scored(run)
    assert np.ptp(one, axis=0).max() > 0.2, "else this test shows nothing"
    assert plain == pytest.approx(one, abs=1e-6)
    assert main(["calibrate", str(run)]) == 0
    assert re.search(r"fitted on 37 samples of val: ece .* -> ", capsys.readouterr().out)
    found = json.loads((run / "calibration.json").read_text())
    after = load(run / "checkpoints" / NAME)
    assert after.temperature == found["temperature"] != 1
    assert found["nll"][0] > found["nll"][1]
    assert table(after.predict(val, faces="whole")) == pytest.approx(
        tempered(one, found["temperature"]), abs=1e-6
    )
    (run / "calibration.json").write_text(json.dumps({**found, "step": 7}))
    assert load(run).temperature is None, "it is of another checkpoint"
    (run / "calibration.json").unlink()


def scored(run: Path) -> Any:
    """What `evaluate` computes its scores of val from."""
    subject = read_subject(run)
    model, cpu = subject.build(), torch.device("cpu")
    data = subject.stream(model, subject.find_manifest(), detect())
    try:
        return collect(subject.load(model, cpu), data, "val", cpu).probabilities["one"]
    finally:
        data.close()


def test_a_picture_may_be_a_path_an_image_or_an_array(model: Model, val: list[Path]) -> None:
    opened = Image.open(val[0])
    grey = np.asarray(opened)
    forms: list[Any] = [
        str(val[0]), opened, grey, grey[..., None], np.stack([grey] * 3, -1), grey[:, ::-1][:, ::-1]
    ]  # fmt: skip
    expected = table([model.predict(val[0], faces="whole")])
    for form in forms:
        assert table([model.predict(form, faces="whole")]) == pytest.approx(expected, abs=1e-9)
    assert opened.size == (48, 48)
    sources = [one.source for one in model.predict(forms[:3], faces="whole")]
    assert sources == [str(val[0]), str(val[0]), "array"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((48, 48)), "is of float64; give one of uint8"),
        (np.zeros((48, 48), np.uint16), "is of uint16"),
        (np.zeros((48, 48), bool), "is of bool"),
        (np.zeros((3, 48, 48), np.uint8), "has the shape 3 x 48 x 48"),
        (np.zeros((48, 48, 4), np.uint8), "has the shape 48 x 48 x 4"),
        (np.zeros((9, 48, 48, 3), np.uint8), "a list for several pictures"),
        (np.zeros((0, 48), np.uint8), "has the shape 0 x 48"),
        (np.uint8(3), "a uint8 is not a picture"),
        (torch.zeros(3, 48, 48), "a Tensor is not a picture"),
        (b"\x89PNG", "a bytes is not a picture"),
        ("nowhere.png", "cannot read nowhere.png: No such file"),
        (PHOTOGRAPH.parent, "Is a directory"),
        (Path(__file__), "is not an image of a known format"),
    ],
)
def test_what_is_no_picture_is_an_error_that_says_what_is(
    model: Model, given: Any, message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        model.predict([PHOTOGRAPH, given], faces="whole")
    assert "\n" not in str(caught.value)


def test_every_kind_of_picture_is_upright_and_without_transparency(model: Model) -> None:
    grey = Image.open(PHOTOGRAPH).convert("L")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to view
    turned = io.BytesIO()
    grey.transpose(Image.Transpose.ROTATE_90).save(turned, "PNG", exif=exif)
    clear = grey.convert("LA")
    clear.putalpha(Image.new("L", grey.size, 255))
    wide = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    forms = [Image.open(turned), clear, wide, grey.convert("RGB").convert("CMYK"),
             grey.convert("P")]  # fmt: skip
    expected = table([model.predict(grey, faces="whole")])
    for form in forms:
        found = model.predict(form, faces="whole")
        assert (found.width, found.height) == grey.size
        assert table([found]) == pytest.approx(expected, abs=1e-6), form.mode
    with pytest.raises(UserError, match="32 bits per pixel"):
        model.predict(grey.convert("F"), faces="whole")


def test_the_batch_does_not_matter(model: Model, val: list[Path]) -> None:
    many = [*val, *val]
    assert len(many) > 64
    together = model.predict(many, faces="whole")
    assert [one.source for one in together] == [str(path) for path in many]
    alone = [model.predict(path, faces="whole") for path in many[:5]]
    assert table(together[:5]) == pytest.approx(table(alone), abs=1e-6)
    assert model.predict([]) == []


def test_results_are_plain_and_frozen(model: Model, val: list[Path]) -> None:
    found = model.predict(val[3], faces="whole")
    assert len(found) == 1 and found[0] is found.faces[0] and list(found) == [*found[:]]
    again = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert again == {
        "source": str(val[3]), "width": 48, "height": 48, "faces": [found[0].to_dict()],
    }  # fmt: skip
    face = found[0]
    assert list(face.probabilities) == list(model.labels)
    assert type(face.confidence) is float and type(face.probabilities["happy"]) is float
    assert face.confidence == face.probabilities[face.label] == max(face.probabilities.values())
    assert sum(face.probabilities.values()) == pytest.approx(1)
    assert face.to_dict()["box"] == {"left": 0, "top": 0, "width": 48, "height": 48}
    with pytest.raises(AttributeError):
        face.label = "sad"  # type: ignore[misc]


def test_what_is_not_confident_enough_is_unsure(model: Model, val: list[Path]) -> None:
    sure = model.predict(val, faces="whole")
    middle = float(np.median([one[0].confidence for one in sure]))
    found = model.predict(val, faces="whole", min_confidence=middle)
    for before, after in zip(sure, found, strict=True):
        assert after[0].probabilities == before[0].probabilities
        expected = before[0].label if before[0].confidence >= middle else "unsure"
        assert after[0].label == expected
    assert {one[0].label for one in found} > {"unsure"}
    with pytest.raises(UserError, match=r"min_confidence=1\.5 is not between 0 and 1"):
        model.predict(val, min_confidence=1.5)
    with pytest.raises(UserError, match="faces='all': choose from auto, largest, whole"):
        model.predict(val, faces="all")  # type: ignore[call-overload]


def test_a_checkpoint_of_an_earlier_version_asks_its_shards(
    face_shards: Path, tmp_path: Path, model: Model, val: list[Path]
) -> None:
    old = write_run(tmp_path / "old", face_shards, image=False)
    expected = table([model.predict(val[0], faces="whole")])
    assert table([load(old).predict(val[0], faces="whole")]) == pytest.approx(expected)
    gone = write_run(tmp_path / "gone", tmp_path / "nowhere", image=False)
    with pytest.raises(UserError, match=r"does not say what its images were like.*nowhere"):
        load(gone)
    assert load(write_run(tmp_path / "new", tmp_path / "nowhere")).labels == model.labels


def test_what_is_no_model_is_an_error_that_says_what_is(
    run: Path, face_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.pt2").write_bytes(b"")
    (tmp_path / "model.onnx").write_bytes(b"not ONNX")
    (tmp_path / "model.safetensors").write_bytes(b"neither")
    (tmp_path / "empty").mkdir()
    for target, message in [
        ("pretrained:nothing", r"pretrained:nothing: (this installation has|no such network)"),
        ("nowhere", "does not exist; give a run folder, a checkpoint"),
        (tmp_path / "model.pt2", "PyTorch may run code"),
        (tmp_path / "model.onnx", "is not a usable ONNX file"),
        (tmp_path / "model.safetensors", "is not a usable .safetensors file"),
        (tmp_path / "empty", "is not a run folder"),
        (run / "config.yaml", "is not a model; give"),
    ]:
        with pytest.raises(UserError, match=message):
            load(target)
    published = write_run(tmp_path / "b", face_shards, name="pattlite", attention="batch")
    assert main(["predict", str(published), str(PHOTOGRAPH)]) == 2
    assert "refusing to predict" in capsys.readouterr().err
