"""Images whose classes are in tables: any `image,label` table, and AffectNet's."""

import contextlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from pattlite_dist.errors import UserError
from pattlite_dist.shards.manifest import SplitName
from pattlite_dist.shards.sources import affectnet, trees
from pattlite_dist.shards.sources.base import Reading, Source, refusal, refusing
from pattlite_dist.shards.sources.csvfile import CsvFile, Record
from pattlite_dist.shards.sources.files import Files
from pattlite_dist.shards.sources.listed import Box, Entry, Listed, Lookup, splits_in
from pattlite_dist.shards.sources.spellings import is_image, shown, split_folder
from pattlite_dist.shards.sources.tables import Columns, Row, columns, is_table, plain, rows_of

ABOUT = (
    "images and a label table: labels.csv (image,label or other columns, see --image-column, "
    "--label-column, --split-column), train.csv and test.csv, AffectNet's training.csv; .csv, .tsv "
    "or .parquet, in a folder or .zip"
)
_FIX = "fix the row, or copy the images again"
_NUMBER = re.compile(r"-?[0-9]{1,9}(?:\.[0-9]{1,20})?", re.ASCII)


class _Form(NamedTuple):
    """What a table's header says; `box` holds the positions of AffectNet's four columns."""

    names: list[str]
    columns: Columns
    box: list[int]


class _Table(NamedTuple):
    """A table that is to be read.

    Attributes:
        skipped: rows before the first image: 1 if there is a header.
    """

    name: str
    form: _Form
    skipped: int


def matches(names: Sequence[str]) -> bool:
    """Whether there are images and a file that may be a table of them."""
    return any(map(is_table, names)) and any(map(is_image, names))


def lists_images(path: Path, reading: Reading) -> bool:
    """Whether a file is a label table: it has columns of images and labels, and none of pixels."""
    if reading.image_column is not None or path.name.lower().endswith((".tsv", ".parquet")):
        return True
    with contextlib.suppress(UserError, ValueError):
        header = [
            field.decode("utf-8", "replace").strip()
            for field in next(CsvFile(path).records(), Record(1, [])).fields
        ]
        columns(header[0].replace("\t", ";").split(";") if len(header) == 1 else header, reading)
        return "pixels" not in header
    return False


class LabelTable(Listed):
    """Images in the order of the tables that name them.

    The split is in a column, or in the name of the table or of the folders of the images. Numbers
    are named by classnames.txt in the top-level folder, or are AffectNet's.

    Args:
        files: the tables and the images.
        reading: the user's options.
        only: the table to read; None reads every one that has images and labels.

    Raises:
        UserError: no table has images and labels, or a row is bad; names it.
    """

    def __init__(self, files: Files, reading: Reading, only: str | None = None) -> None:
        images = Lookup(files.names)
        tables, reasons = _tables(files, [only] if only else _names(files), images, reading)
        if not tables:
            reason = reasons[0] if reasons else f"{shown(str(files.path))} has no table"
            raise UserError(
                f"{reason}; name the columns with --image-column and --label-column, or read the "
                "images by their folders only with --source folder"
            )
        left_out: Counter[str] = Counter({"other tables": len(reasons)})
        parts = splits_in([table.name for table in tables])
        entries = [
            entry
            for table, part in zip(tables, parts, strict=True)
            for entry in _entries(files, table, part, images, reading, left_out)
        ]
        theirs = any(affectnet.is_header(table.form.names) for table in tables)
        super().__init__(
            "label-table",
            files,
            reading,
            _with_folder_splits(entries),
            name=_told(tables),
            known=affectnet.NAMES if theirs else None,
            left_out=left_out,
            notes=[f"labels are read from {_told(tables)}"],
        )


def in_folder(files: Files, reading: Reading) -> Source:
    """The reader for a folder: of the tables, or of class folders that no table describes.

    Tables of something else do not make a tree of class folders a list, nor do those that name
    half of its images or fewer; `Tree` refuses what contradicts them.
    """
    images = Lookup(files.names)
    if reading.kind == "auto" and reading.image_column is None and trees.matches(files.names):
        tables, _ = _tables(files, _names(files), images, reading)
        most = len(files.images) // 2 + 1
        rows = sum(len(list(islice(rows_of(files, table.name), most + 1))) - 1 for table in tables)
        if rows < most:
            return trees.Tree(files, reading)
    return LabelTable(files, reading)


def _names(files: Files) -> list[str]:
    return [name for name in files.names if is_table(name)]


def _tables(
    files: Files, names: Sequence[str], images: Lookup, reading: Reading
) -> tuple[list[_Table], list[str]]:
    """The tables that have images and labels, and why the others have not."""
    tables: list[_Table] = []
    reasons: list[str] = []
    for name in names:
        try:
            tables.append(_look(files, name, images, reading))
        except ValueError as error:
            reasons.append(f"{files.where(name)}: {error}")
    return tables, reasons


def _look(files: Files, name: str, images: Lookup, reading: Reading) -> _Table:
    """The form of a table.

    Raises:
        ValueError: it has no columns of images and labels.
    """
    first = next(rows_of(files, name), Row(1, []))
    header, skipped = first.fields, 1
    if header and any(_is_there(images, field, _folder(name)) for field in header):
        skipped = 0  # it names an image, so there is no header
        if len(header) == len(affectnet.COLUMNS):
            header = list(affectnet.COLUMNS)
        elif len(header) == 2 and reading.image_column is None:
            header = ["image", "label"]
        else:
            header = [str(number) for number in range(1, len(header) + 1)]
    names = [plain(field) for field in header]
    box = [names.index(part) for part in affectnet.BOX if part in names]
    form = _Form(header, columns(header, reading), box if len(box) == len(affectnet.BOX) else [])
    return _Table(name, form, skipped)


def _is_there(images: Lookup, text: str, folder: str) -> bool:
    if not is_image(text):  # a number may be a column's name and an image's
        return False
    try:
        images.find(text, folder)
    except ValueError:
        return False
    return True


def _folder(name: str) -> str:
    return name[: name.rfind("/") + 1]


def _entries(
    files: Files,
    table: _Table,
    own: SplitName | None,
    images: Lookup,
    reading: Reading,
    left_out: Counter[str],
) -> Iterator[Entry]:
    """Yield the labelled rows; counts the others in `left_out`.

    Their split is `own`, unless the table has a column for it.
    """
    names, (image, label, split), box = table.form
    theirs = affectnet.is_header(names)
    word = "row" if table.name.lower().endswith(".parquet") else "line"
    rows = rows_of(files, table.name)
    for number, (line, fields) in enumerate(rows):
        if number < table.skipped:
            continue
        where = f"{files.where(table.name)}, {word} {line}"
        if len(fields) != len(names):
            raise refusal(where, f"{len(fields)} fields, but {len(names)} are needed", _FIX)
        if theirs and fields[label] in affectnet.NO_EMOTION:
            left_out[affectnet.NO_EMOTION[fields[label]]] += 1
            continue
        if not fields[label]:
            if reading.unlabelled == "refuse":
                fix = "fill it in, or skip such rows with --unlabelled skip"
                raise refusal(where, "it has no label", fix)
            left_out["no label"] += 1
            continue
        with refusing(where, _FIX):
            found = images.find(fields[image], _folder(table.name))
            part = own if split is None else _split(fields[split])
            face = _box([fields[place] for place in box]) if box else None
        yield Entry(found, fields[label], part, where, face)


def _split(text: str) -> SplitName | None:
    found = split_folder(text)
    if found is None and text:
        raise ValueError(f"{shown(text[:40])!r} is not a split (train, val, test)")
    return found


def _box(fields: Sequence[str]) -> Box:
    """From left, top, width and height, which may have decimals."""
    if not all(_NUMBER.fullmatch(field) for field in fields):
        raise ValueError(f"its box is not four numbers: {shown(', '.join(fields)[:60])}")
    left, top, width, height = (round(float(field)) for field in fields)
    return left, top, left + width, top + height


def _with_folder_splits(entries: Sequence[Entry]) -> list[Entry]:
    """With the splits of the images' folders, if nothing else says them and all have one."""
    if any(entry.split for entry in entries):
        return list(entries)
    found = splits_in([entry.name.rpartition("/")[0] for entry in entries])
    if not all(found):
        return list(entries)
    return [entry._replace(split=split) for entry, split in zip(entries, found, strict=True)]


def _told(tables: Sequence[_Table]) -> str:
    """What was read as what, because the columns may have been guessed."""
    said = []
    for table in tables:
        image, label, split = table.form.columns
        parts = [f"images: {table.form.names[image]}", f"labels: {table.form.names[label]}"]
        if split is not None:
            parts.append(f"splits: {table.form.names[split]}")
        said.append(f"{table.name} ({', '.join(parts)})")
    return shown("; ".join(said))
