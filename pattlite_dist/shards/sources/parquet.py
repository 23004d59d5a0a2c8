"""The Hugging Face hub's Parquet files, which contain the images."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pattlite_dist.shards.sources.base import Reading, refusal
from pattlite_dist.shards.sources.csvfile import stamp_of
from pattlite_dist.shards.sources.files import Files
from pattlite_dist.shards.sources.listed import splits_in
from pattlite_dist.shards.sources.parquetfile import batches_of, open_parquet
from pattlite_dist.shards.sources.spellings import is_image, shown, split_folder
from pattlite_dist.shards.sources.streamed import Loose, Streamed
from pattlite_dist.shards.sources.tables import columns

ABOUT = (
    "Parquet files of the Hugging Face hub, which contain the images: "
    "data/train-00000-of-00001.parquet (image, label); a file or a folder; requires the extra "
    "`parquet`"
)
SUFFIX = ".parquet"
_BATCH = 64  # rows that are in memory at a time


def matches(names: Sequence[str]) -> bool:
    """Whether there are Parquet files, and no images for which they could be tables."""
    there = any(name.lower().endswith(SUFFIX) for name in names)
    return there and not any(is_image(name) or name.endswith(".tar") for name in names)


def has_images(path: Path, reading: Reading) -> bool:
    """Whether a Parquet file contains the images, not only their names.

    Raises:
        UserError: it is not Parquet, or pyarrow is missing.
    """
    table = open_parquet(path, shown(str(path)))
    with contextlib.suppress(ValueError):
        names = list(table.schema_arrow.names)
        kind = str(table.schema_arrow.field(columns(names, reading).image).type)
        return kind.startswith(("struct", "binary", "large_binary"))
    return False


class HubParquet(Streamed):
    """The rows of Parquet files, by the names of the files.

    The split is in a column or in the name of the file. Numbers are named by the schema's Hugging
    Face metadata.

    Args:
        paths: of the files.
        reading: the user's options.

    Raises:
        UserError: a file has no images or labels, or pyarrow is missing.
    """

    kind = "hub-parquet"

    def __init__(self, paths: Sequence[Path], reading: Reading) -> None:
        self._paths, self._reading = list(paths), reading
        self.where = shown(str(self._paths[0]))
        names = [self._columns(path) for path in self._paths]
        image, label, *split = names[0]
        told = "".join(f", splits: {name}" for name in split)
        self.name = shown(f"Parquet (images: {image}, labels: {label}{told})")
        self._survey(reading)

    def stamp(self) -> str:
        """Paths, sizes and times of the files."""
        return stamp_of(self._paths)

    def _columns(self, path: Path) -> list[str]:
        """The names of the columns of images, labels and, if there is one, splits."""
        names = list(open_parquet(path, shown(str(path))).schema_arrow.names)
        try:
            return [names[place] for place in columns(names, self._reading) if place is not None]
        except ValueError as error:
            fix = "name the columns with --image-column and --label-column"
            raise refusal(shown(str(path)), str(error), fix) from None

    def _each(self) -> Iterator[Loose]:
        parts = splits_in([f"{path.parent.name}/{path.name}" for path in self._paths])
        for path, own in zip(self._paths, parts, strict=True):
            where, names, row = shown(str(path)), self._columns(path), 0
            table = open_parquet(path, where)
            for batch in batches_of(table, _BATCH, where, names):
                values = (batch.column(name).to_pylist() for name in names)
                for image, label, *said in zip(*values, strict=True):
                    here = f"{where}, row {row}"
                    split = own
                    if said and said[0] is not None:
                        split = split_folder(str(said[0]))
                        if split is None:
                            what = f"{str(said[0])[:40]!a} is not a split (train, val, test)"
                            raise refusal(here, what, "choose the column with --split-column")
                    text = "" if label is None else str(label)
                    yield Loose(_bytes(image, here), text, "", split, here, f"{path.name}/{row}")
                    row += 1

    def _known(self) -> Sequence[str] | Mapping[int, str]:
        """From the first file's metadata: what `datasets` writes for a ClassLabel."""
        metadata = open_parquet(self._paths[0], self.where).schema_arrow.metadata or {}
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            told = json.loads(metadata[b"huggingface"])
            names = told["info"]["features"][self._columns(self._paths[0])[1]]["names"]
            if isinstance(names, list) and all(isinstance(name, str) for name in names):
                return names
        return ()

    def _name_fix(self) -> str:
        return (
            "choose the column of the classes with --label-column, or write the file with "
            "`datasets` and a ClassLabel"
        )


def _bytes(image: Any, where: str) -> bytes:
    """The file in a row: bytes, or a struct with `bytes`, as `datasets` writes images."""
    data = image.get("bytes") if isinstance(image, dict) else image
    if data is None:
        return b""
    if not isinstance(data, bytes):
        raise refusal(where, "it names an image but does not contain it", "choose --image-column")
    return data


def in_folder(files: Files, reading: Reading) -> HubParquet:
    """The reader for the Parquet files in a folder.

    Raises:
        UserError: it is a zip, or there are none.
    """
    paths = [files.place(name) for name in files.names if name.lower().endswith(SUFFIX)]
    if not paths:
        raise refusal(shown(str(files.path)), "it has no Parquet file", "leave out --source")
    return HubParquet(paths, reading)
