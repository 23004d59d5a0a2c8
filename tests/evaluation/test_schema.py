import json
from pathlib import Path
from typing import Any

import pytest

from pattlite_dist.errors import UserError
from pattlite_dist.evaluation.schema import (
    Bootstrap,
    Evaluation,
    PredictionsFile,
    read_evaluation,
)
from pattlite_dist.evaluation.scores import score
from tests.evaluation.samples import CLASSES, INDEPENDENT, predictions


def evaluation() -> Evaluation:
    found = {
        "val": predictions(20, 1, ("one", "flip")),
        "test": predictions(30, 2, ("one", "flip")),
    }
    return Evaluation(
        created_by="tests", checkpoint="a.ckpt", epoch=1, step=10, manifest="f" * 64,
        labels=CLASSES, views=["one", "flip"],
        splits={part: score(one, CLASSES) for part, one in found.items()},
        more_views={"flip": {part: score(one, CLASSES, "flip") for part, one in found.items()}},
        independence=INDEPENDENT, bootstrap=Bootstrap(resamples=10, seed=0, level=0.95),
        predictions=PredictionsFile(name="predictions.npz", sha256="0" * 64),
    )  # fmt: skip


def test_what_is_saved_is_read_again(tmp_path: Path) -> None:
    evaluation().save(tmp_path)
    assert read_evaluation(tmp_path) == evaluation()
    text = json.loads((tmp_path / "evaluation.json").read_text())
    assert (text["format"], text["version"]) == ("pattlite-evaluation", 2)
    # Everything in version 1 has kept its place.
    test = text["splits"]["test"]
    assert {"samples", "top1", "macro_f1", "nll", "recall", "confusion"} <= test.keys()


def change(content: Any, where: str, value: Any) -> None:
    *path, last = where.split(".")
    for key in path:
        content = content[key]
    if value is None:
        del content[last]
    else:
        content[last] = value


@pytest.mark.parametrize(
    ("where", "value", "told"),
    [
        ("version", 1, "version"),
        ("version", 3, "version"),
        ("format", "other", "format"),
        ("views", ["one"], "views"),
        ("independence.companions", 0.3, "depended on their batch"),
        ("independence", None, "independence"),
        ("views", ["flip", "one"], "views"),
        ("extra", 1, "extra"),
        ("splits.test", None, "same splits"),
        ("splits.test.samples", 31, "does not count 31"),
        ("splits.test.top1", 0.99, "top1"),
        ("splits.test.top1", 1.5, "top1"),
        ("splits.test.nll", float("nan"), "nll"),
        ("splits.test.recall", {"angry": 1.0}, "table by class"),
        ("splits.test.confusion", [[30]], "top1"),
        ("splits.test.confusion", [[30, 1]], "square"),
        ("splits.other", {}, "splits"),
        ("predictions.name", "../../x", "predictions.name"),
        ("predictions", None, "predictions"),
        ("labels", ["a"], "labels"),
    ],
)
def test_what_contradicts_itself_is_one_line_that_says_where(
    tmp_path: Path, where: str, value: Any, told: str
) -> None:
    content = json.loads(evaluation().model_dump_json())
    change(content, where, value)
    (tmp_path / "evaluation.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=told) as caught:
        read_evaluation(tmp_path)
    assert "\n" not in str(caught.value)
    assert "run `pattlite evaluate" in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[" * 100_000, "[]", "null", '"text"'])
def test_what_is_no_evaluation_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "evaluation.json").write_text(content)
    with pytest.raises(UserError, match=r"evaluation\.json"):
        read_evaluation(tmp_path)


def test_no_evaluation_says_how_to_make_one(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match=r"has no evaluation\.json; run `pattlite evaluate"):
            read_evaluation(folder)
