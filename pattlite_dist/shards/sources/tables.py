"""Label tables in CSV, TSV or Parquet: their rows as text, and which columns say what."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from pattlite_dist.shards.sources.base import Reading, refusal
from pattlite_dist.shards.sources.files import Files
from pattlite_dist.shards.sources.parquetfile import text_rows
from pattlite_dist.shards.sources.spellings import shown

TABLE_SUFFIXES = (".csv", ".csv.gz", ".csv.xz", ".tsv", ".parquet")
# Only if a table has exactly one column of the first tier, or else of the second.
_IMAGE_COLUMNS = (
    {
        "image", "image_path", "image_file", "image_name", "img", "img_path", "img_name",
        "file_name", "filename", "file_path", "filepath", "path", "pth", "subdirectory_filepath",
    },
    {"images", "file", "name", "id", "image_id", "img_id", "pic", "picture", "photo"},
)  # fmt: skip
_LABEL_COLUMNS = (
    {"label", "emotion", "expression", "class"},
    {"labels", "class_name", "label_name", "category", "target", "emotions", "facial_expression"},
)
_SPLIT_COLUMNS = ({"split", "usage", "subset", "partition"}, {"set", "phase"})


class Row(NamedTuple):
    """One row: the number of its line from 1, or of its row in Parquet, and its fields."""

    line: int
    fields: list[str]


class Columns(NamedTuple):
    """The positions of a table's columns; `split` is None if it has none."""

    image: int
    label: int
    split: int | None


def is_table(name: str) -> bool:
    """Whether a file may be a label table, by its suffix."""
    return name.lower().endswith(TABLE_SUFFIXES)


def rows_of(files: Files, name: str) -> Iterator[Row]:
    """Yield the header and the rows of a table, without spaces around the fields.

    The fields of a CSV are separated by commas, or by semicolons or tabs if the header has no
    comma; those of a TSV by tabs. Empty lines are skipped.

    Raises:
        UserError: it cannot be read, is not text, or Parquet cannot be read here.
    """
    if name.lower().endswith(".parquet"):
        # The header has no number of its own.
        for row, fields in enumerate(text_rows(files.read(name), files.where(name)), start=-1):
            yield Row(row, fields)
        return
    separator = "\t" if name.lower().endswith(".tsv") else _separator(files, name)
    if separator == ",":  # of any size, plain or packed
        for record in files.table(name).records():
            if record.fields:
                text = [
                    field.decode("utf-8", "backslashreplace").strip() for field in record.fields
                ]
                yield Row(record.line, text)
        return
    where = files.where(name)
    try:
        content = io.StringIO(files.read(name).decode("utf-8-sig"), newline="")
        reader = csv.reader(content, delimiter=separator)
        for fields in reader:
            if fields:
                yield Row(reader.line_num, [field.strip() for field in fields])
    except (UnicodeDecodeError, csv.Error) as error:
        raise refusal(where, f"it is not a table ({shown(str(error))})", "save it again") from error


def _separator(files: Files, name: str) -> str:
    first = next((record.fields for record in files.table(name).records()), [])
    if len(first) > 1:
        return ","
    text = first[0] if first else b""
    return next((mark for mark in ("\t", ";") if mark.encode() in text), ",")


def plain(name: str) -> str:
    """A column's name for comparison: in lower case, with `_` between words."""
    return "_".join(name.casefold().replace("-", " ").replace("_", " ").split())


def columns(header: Sequence[str], reading: Reading) -> Columns:
    """Which columns name the image, its class and its split: the user's, or the usual ones.

    Raises:
        ValueError: one is missing, or several have a usual name.
    """
    image = _column(header, reading.image_column, "image", _IMAGE_COLUMNS)
    label = _column(header, reading.label_column, "label", _LABEL_COLUMNS)
    split = _column(header, reading.split_column, "split", _SPLIT_COLUMNS)
    if image is None or label is None:
        what = "images" if image is None else "labels"
        raise ValueError(f"it has no known column of {what} (it has: {told(header)})")
    return Columns(image, label, split)


def label_column(names: Sequence[str], wanted: str | None) -> str | None:
    """Which of the names, such as JSON's keys, is the label's; None if none is.

    Raises:
        ValueError: several have a usual name.
    """
    if wanted is not None:
        return next((name for name in names if plain(name) == plain(wanted)), None)
    place = _column(names, None, "label", _LABEL_COLUMNS)
    return None if place is None else names[place]


def _column(
    header: Sequence[str], named: str | None, what: str, tiers: Sequence[set[str]]
) -> int | None:
    if named is not None:
        found = [place for place, name in enumerate(header) if plain(name) == plain(named)]
        if len(found) != 1:
            count = "no column" if not found else f"{len(found)} columns"
            raise ValueError(f"it has {count} {shown(named)!r} (it has: {told(header)})")
        return found[0]
    for names in tiers:
        found = [place for place, name in enumerate(header) if plain(name) in names]
        if len(found) > 1:
            several = told([header[place] for place in found])
            raise ValueError(f"several columns may be the {what} ({several}): use --{what}-column")
        if found:
            return found[0]
    return None


def told(names: Iterable[str]) -> str:
    """Names for a message, shortened."""
    text = shown(", ".join(names))
    return text if len(text) <= 120 else f"{text[:117]}..."
