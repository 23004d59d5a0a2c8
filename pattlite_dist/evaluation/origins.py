"""Where scored samples come from: their rows in the source, and their files if it had any."""

import json
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pattlite_dist.errors import UserError
from pattlite_dist.shards.manifest import Manifest, SplitName
from pattlite_dist.shards.tario import check_bytes, read_members
from pattlite_dist.shards.verify import Place


class Origins(NamedTuple):
    """Of the samples of a split, in the order of its shards.

    Attributes:
        rows: int64 [n], positions in the source.
        files: text [n], paths in the source; empty where it had no files.
    """

    rows: NDArray[np.int64]
    files: NDArray[np.str_]

    def where(self, ids: NDArray[np.int64]) -> "Origins":
        """Of the samples with these ids, in this order."""
        return Origins(self.rows[ids], self.files[ids])

    def names(self) -> list[str]:
        """Short names for a picture: the end of the file's, or the row."""
        return [
            file.rpartition("/")[2] or f"row {row}"
            for row, file in zip(self.rows.tolist(), self.files.tolist(), strict=True)
        ]


def read_origins(place: Place, manifest: Manifest, split: SplitName) -> Origins:
    """Read the JSON of every sample of a split; decodes no image.

    Raises:
        UserError: a shard cannot be read or is not what the manifest says.
    """
    rows: list[int] = []
    files: list[str] = []
    for shard in manifest.shards[split]:
        where = place.shown(shard.name)

        def facts(data: bytes, shard: Any = shard, where: str = where) -> list[tuple[int, str]]:
            check_bytes(data, shard, where)
            try:
                told = [json.loads(bytes(parts["json"])) for parts in read_members(data).values()]
                return [(int(one["row"]), str(one.get("file", ""))) for one in told]
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise UserError(f"{where}: {error}; create the shards again") from error

        for row, file in place.read(shard.name, facts, shard.bytes + 1):
            rows.append(row)
            files.append(file)
    return Origins(np.array(rows, np.int64), np.array(files, np.str_))
