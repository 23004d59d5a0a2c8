"""Predictions as rows, each printed as soon as it is known: a table, JSON lines, or CSV."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

from pattlite_dist.predict.results import Face, Prediction

Format = Literal["table", "jsonl", "csv"]
FORMATS = get_args(Format)
_BOX = ("left", "top", "width", "height")
_LABEL = 12  # characters of the table's first column, at least


def header(form: Format, labels: Sequence[str]) -> str:
    """The lines before the rows."""
    if form == "csv":
        places = ["source", "frame", "seconds", "face", *_BOX, "score", "label", "confidence"]
        return _line([*places, *(f"p({label})" for label in labels)])
    if form == "table":
        return f"{'label':<{_width(labels)}}confidence    left     top   width  height  source\n"
    return ""


def rows(form: Format, prediction: Prediction, labels: Sequence[str]) -> str:
    """The lines of one picture: one for each face, or one that says that there is none.

    JSON lines are one for each picture, in which `faces` may be empty.
    """
    if form == "jsonl":
        return json.dumps(prediction.to_dict(), ensure_ascii=False, allow_nan=False) + "\n"
    make = _csv if form == "csv" else _table
    return "".join(make(prediction, labels))


def _csv(prediction: Prediction, labels: Sequence[str]) -> Iterator[str]:
    place = [prediction.source, prediction.frame, prediction.seconds]
    if not prediction.faces:
        yield _line([*place, None, *[None] * 5, "no face", None, *[None] * len(labels)])
    for number, face in enumerate(prediction):
        box = [getattr(face.box, name) for name in _BOX]
        row = [*place, number, *box, face.score, face.label, face.confidence]
        yield _line([*row, *face.probabilities.values()])


def _line(cells: Sequence[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _table(prediction: Prediction, labels: Sequence[str]) -> Iterator[str]:
    place = prediction.source
    if prediction.frame is not None:
        place += f", frame {prediction.frame:,}"
    if prediction.seconds is not None:
        place += f" at {prediction.seconds:.2f} s"
    wide = _width(labels)
    if not prediction.faces:
        yield f"{'no face':<{wide}}{'-':>10}{'-':>8}{'-':>8}{'-':>8}{'-':>8}  {place}\n"
    for face in prediction:
        yield f"{face.label:<{wide}}{_percent(face):>10}{_boxed(face)}  {place}\n"


def _percent(face: Face) -> str:
    return f"{100 * face.confidence:.1f} %"


def _boxed(face: Face) -> str:
    return "".join(f"{getattr(face.box, name):>8}" for name in _BOX)


def _width(labels: Sequence[str]) -> int:
    return max(_LABEL, *(len(label) + 2 for label in labels))
