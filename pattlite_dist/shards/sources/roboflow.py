"""What Roboflow exports for classification: a `_classes.csv` of zeros and ones in each split."""

from collections import Counter
from collections.abc import Iterator, Sequence

from pattlite_dist.shards.manifest import SplitName
from pattlite_dist.shards.sources.base import Reading, refusal, refusing
from pattlite_dist.shards.sources.files import Files
from pattlite_dist.shards.sources.listed import Entry, Listed, Lookup, split_in
from pattlite_dist.shards.sources.tables import Row, rows_of

ABOUT = (
    "Roboflow's export of a classification: train/_classes.csv (filename, then a column of 0 and 1 "
    "for each class), valid and test likewise; in a folder or .zip"
)
TABLE = "_classes.csv"
_FIX = "export the data set again"
_UNLABELLED = ("unlabeled", "unlabelled")  # Roboflow's column for images without a class


def matches(names: Sequence[str]) -> bool:
    """Whether one of Roboflow's tables is there."""
    return any(name.rpartition("/")[2] == TABLE for name in names)


class Roboflow(Listed):
    """Roboflow's images in the order of its tables, with the splits of their folders.

    Raises:
        UserError: a row has another form, no class or several classes; names it.
    """

    def __init__(self, files: Files, reading: Reading) -> None:
        images, left_out = Lookup(files.names), Counter[str]()
        tables = [name for name in files.names if name.rpartition("/")[2] == TABLE]
        entries = [
            entry for name in tables for entry in _entries(files, name, images, reading, left_out)
        ]
        super().__init__(
            "roboflow", files, reading, entries, name="Roboflow's export", left_out=left_out
        )


def _entries(
    files: Files, name: str, images: Lookup, reading: Reading, left_out: Counter[str]
) -> Iterator[Entry]:
    folder = name[: name.rfind("/") + 1]
    split: SplitName | None = split_in(folder.rstrip("/").rpartition("/")[2])
    rows = rows_of(files, name)
    classes = next(rows, Row(1, [])).fields[1:]
    if len(classes) < 2 or len(set(classes)) < len(classes) or not all(classes):
        raise refusal(files.where(name), "its first line does not name the classes", _FIX)
    for line, fields in rows:
        where = f"{files.where(name)}, line {line}"
        marks = fields[1:]
        if len(marks) != len(classes) or not set(marks) <= {"0", "1"}:
            raise refusal(where, f"it is not a name and {len(classes)} times 0 or 1", _FIX)
        found = [
            label for label, mark in zip(classes, marks, strict=True)
            if mark == "1" and label.casefold() not in _UNLABELLED
        ]  # fmt: skip
        if len(found) > 1:
            raise refusal(where, f"it has {len(found)} classes, but must have one", "decide on one")
        if not found:
            if reading.unlabelled == "refuse":
                fix = "label it, or skip such images with --unlabelled skip"
                raise refusal(where, "it has no class", fix)
            left_out["no label"] += 1
            continue
        with refusing(where, "copy the images again"):
            image = images.find(fields[0], folder)
        yield Entry(image, found[0], split, where)
