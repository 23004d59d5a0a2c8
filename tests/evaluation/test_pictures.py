from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pattlite_dist.evaluation import pictures
from pattlite_dist.evaluation.scores import score, worst_mistakes
from tests.evaluation.samples import CLASSES, predictions


def test_the_scores_pictures_are_drawn_whatever_classes_occur(tmp_path: Path) -> None:
    val, test = predictions(3, 1), predictions(300, 2)
    assert len(set(val.labels)) < len(CLASSES)
    found = {"val": val, "test": test, "test_clean": test.clean()}
    scores = {part: score(one, CLASSES) for part, one in found.items()}
    title = "run on faces$: epoch=1"
    pictures.draw_scores(tmp_path, found, scores, CLASSES, title)  # type: ignore[arg-type]
    names = ["confusion.png", "precision_recall.png", "reliability.png"]
    assert sorted(path.name for path in tmp_path.glob("*.png")) == names
    for path in tmp_path.glob("*.svg"):
        assert path.with_suffix(".png").name in names and f"<!-- {title} -->" in path.read_text()
    for name in names:
        with Image.open(tmp_path / name) as image:
            assert image.width > 2000  # three panels, at print resolution


def test_the_confusion_matrix_says_counts_and_rates() -> None:
    scores = {"test": score(predictions(300, 2), CLASSES)}
    axis = pictures.confusion(scores, CLASSES).axes[0]  # type: ignore[arg-type]
    texts = [text.get_text() for text in axis.texts]
    confusion = scores["test"].confusion
    assert len(texts) == 16
    assert texts[0] == f"{100 * confusion[0][0] / sum(confusion[0]):.0f}%\n{confusion[0][0]}"


def test_curves_can_be_told_apart_without_colours_and_name_their_average() -> None:
    found = {"test": predictions(300, 2)}
    scores = {"test": score(found["test"], CLASSES)}
    axis = pictures.recall_by_class(found, scores, CLASSES).axes[0]  # type: ignore[arg-type]
    dashes = {str(line.get_linestyle()) + str(line._dash_pattern) for line in axis.lines}  # type: ignore[attr-defined]
    assert len(dashes) == len(CLASSES)
    legend = axis.get_legend()
    assert legend is not None
    average = scores["test"].average_precision["sad"]
    assert f"sad {average:.2f}" in [text.get_text() for text in legend.get_texts()]


def test_classes_that_the_font_cannot_write_are_told_apart_by_number(tmp_path: Path) -> None:
    classes = ["\u6124\u6012", "$x^{$", "\u0434\u0430", "\u4e2d"]
    one = predictions(300, 2)
    scores = {"test": score(one, classes)}
    figure = pictures.confusion(scores, classes)  # type: ignore[arg-type]
    axis = figure.axes[0]
    shown = ["class 0", r"\$x^{\$", "\u0434\u0430", "class 3"]
    assert [text.get_text() for text in axis.get_xticklabels()] == shown
    assert [text.get_text() for text in axis.get_yticklabels()] == shown
    # Here a letter that the font lacks, or a broken formula, would be an error.
    pictures.draw_scores(tmp_path, {"test": one}, scores, classes)  # type: ignore[arg-type]
    images = np.zeros((4, 1, 8, 8), np.uint8)
    names = [f"row {number}" for number in range(4)]
    pictures.draw_mistakes(tmp_path, images, worst_mistakes(one, 4), classes, "mistakes", names)


@pytest.mark.parametrize(("n", "channels"), [(0, 1), (1, 3), (20, 1)])
def test_a_sheet_holds_as_many_mistakes_as_there_are(tmp_path: Path, n: int, channels: int) -> None:
    worst = worst_mistakes(predictions(200), n)
    images = np.random.default_rng(0).integers(0, 256, (n, channels, 24, 24), np.uint8)
    names = [f"a rather long name of a file, number {i}.png" for i in range(len(images))]
    pictures.draw_mistakes(tmp_path, images, worst, CLASSES, "mistakes", names)
    with Image.open(tmp_path / "mistakes.png") as image:
        assert image.height > 200
