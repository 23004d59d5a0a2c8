"""Parquet files by pyarrow, which is an extra and imported only here, where one is read."""

import io
from collections.abc import Iterator
from typing import Any

from pattlite_dist.errors import UserError
from pattlite_dist.shards.sources.base import refusal
from pattlite_dist.shards.sources.spellings import shown

_BATCH = 4096  # rows of text that are in memory at a time
_FIX = "download the file again"


def text_rows(data: bytes, where: str) -> Iterator[list[str]]:
    """The names of the columns, then the rows as text.

    Raises:
        UserError: it is not Parquet, or pyarrow is missing.
    """
    table = open_parquet(io.BytesIO(data), where)
    yield list(table.schema_arrow.names)
    for batch in batches_of(table, _BATCH, where):
        for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            yield ["" if value is None else str(value).strip() for value in values]


def open_parquet(file: Any, where: str) -> Any:
    """A `pyarrow.parquet.ParquetFile` of a path or a stream.

    Raises:
        UserError: it is not Parquet, or pyarrow is missing.
    """
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise UserError(
            f"{where}: reading Parquet requires pyarrow, which is not installed; "
            "pip install 'pattlite_dist[parquet]'"
        ) from error
    try:
        return ParquetFile(file)
    except (OSError, ArrowException) as error:
        raise _damaged(where, error) from error


def batches_of(table: Any, rows: int, where: str, names: list[str] | None = None) -> Iterator[Any]:
    """Yield the rows of some columns, or of all, a number of them at a time.

    Raises:
        UserError: the file is damaged.
    """
    from pyarrow import ArrowException

    try:
        yield from table.iter_batches(rows, columns=names)
    except (OSError, ArrowException) as error:
        raise _damaged(where, error) from error


def _damaged(where: str, error: Exception) -> UserError:
    reason = shown((str(error).splitlines() or [type(error).__name__])[0][:120])
    return refusal(where, f"it is not Parquet, or is damaged ({reason})", _FIX)
