"""The pure parts of `benchmarks/predict.py`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.benchmarked import benchmark


@pytest.fixture
def script() -> Iterator[Any]:
    with benchmark("predict") as module:
        yield module


def test_each_network_is_a_row_and_the_wheel_reads_no_files(script: Any) -> None:
    scores = {"top1": 0.7, "top1_interval": [0.68, 0.72], "macro_f1": 0.65, "bytes": 93_000}
    speed = {"1": 500.0, "32": 800.0, "start": 0.94}
    ours = {**scores, **speed, "1": 400.0, "top1": 0.74, "files": 450.0, "bare": 500.0}
    head, fer, mine = script.table({"fer 1": {**scores, **speed, "files": None}, "a.onnx": ours})
    assert dict(zip(head, mine, strict=True)) == {
        "network": "a.onnx", "clean test %": "74.0", "(95 %)": "68.0 to 72.0",
        "macro-F1 %": "65.0", "one image, ms": "2.50", "images/s, 32": "800", "start, s": "0.9",
        "kB": "93", "files/s": "450", "of the network": "90 %",
        "than fer": "+4.0, x 0.80",
    }  # fmt: skip
    assert fer[-3:] == ["-", "-", "-"] and fer[2:4] == mine[2:4]


def test_accuracy_is_that_of_the_order_of_the_classes(script: Any) -> None:
    labels = np.array([0, 1, 1, 0])
    clean = script.Clean(np.zeros((4, 2, 2), np.uint8), labels, ["a", "b"])
    found = script.scored(np.eye(2, dtype=np.float32)[[0, 1, 0, 0]], clean)
    assert found["top1"] == 0.75 and found["top1_interval"][0] <= 0.75


def test_a_size_is_that_of_the_file(script: Any, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"12345")
    assert script.size_of(str(tmp_path / "a.onnx")) == 5


def test_each_network_is_exported_once_in_two_forms(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def export(target: Path, out: Path, form: str, shards: str) -> None:
        made.append((str(target), form, shards))
        out.touch()

    monkeypatch.setattr("pattlite_dist.export.export.export", export)
    for _ in range(2):
        found = script.with_exported(["pretrained:a", "runs/b", "c.onnx"], tmp_path, "shards")
        a, b = (
            [str(tmp_path / f"{name}.{form}.onnx") for form in ("onnx", "onnx-int8")]
            for name in "ab"
        )
        assert found == ["pretrained:a", *a, "runs/b", *b, "c.onnx"]
    assert made == [
        (name, form, "shards")
        for name in ("pretrained:a", "runs/b")
        for form in ("onnx", "onnx-int8")
    ]
