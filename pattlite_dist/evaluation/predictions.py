"""Each sample's probabilities: the table that all scores are computed from, and its file."""

import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pattlite_dist.errors import UserError
from pattlite_dist.evaluation.origins import Origins
from pattlite_dist.evaluation.schema import View
from pattlite_dist.shards.manifest import SPLIT_NAMES, SplitName
from pattlite_dist.shards.tario import BLANK, LEAK

_DATE = (1980, 1, 1, 0, 0, 0)  # of every member, so that the same predictions are the same bytes


@dataclass(frozen=True)
class Predictions:
    """Predictions for one split, or a part of it.

    Attributes:
        ids: int64 [n], places in the split, in the order of its shards.
        labels: int64 [n].
        flags: uint8 [n], a sum of `BLANK` and `LEAK`.
        probabilities: by view, float64 [n, classes].
        target: float64 [n, classes], shares of the votes, if the set has them.
    """

    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    flags: NDArray[np.uint8]
    probabilities: Mapping[View, NDArray[np.float64]]
    target: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def where(self, kept: NDArray[np.bool_] | NDArray[np.intp]) -> "Predictions":
        """Select samples by a mask, bool [n], or by places, in that order."""
        return Predictions(
            self.ids[kept],
            self.labels[kept],
            self.flags[kept],
            {view: table[kept] for view, table in self.probabilities.items()},
            None if self.target is None else self.target[kept],
        )

    def clean(self) -> "Predictions":
        """The samples without an identical image in train."""
        return self.where((self.flags & LEAK) == 0)

    def guesses(self, view: View = "one") -> NDArray[np.int64]:
        """The class with the highest probability, the first of equals; int64 [n]."""
        guesses: NDArray[np.int64] = self.probabilities[view].argmax(1).astype(np.int64)
        return guesses


def pack_predictions(
    classes: Sequence[str],
    splits: Mapping[SplitName, Predictions],
    origins: Mapping[SplitName, Origins] | None = None,
) -> bytes:
    """The bytes of an .npz file.

    It holds `classes`, and for each split `SPLIT.id`, `.label`, `.blank`, `.leak`, a table for
    each view (`.one`, `.flip`, `.ten-crop`), and `.target` if there are votes; of the same samples,
    where they come from: `.row`, and `.file` if any has one.
    """
    arrays: dict[str, NDArray[np.generic]] = {"classes": np.array(classes)}
    for split, found in splits.items():
        arrays[f"{split}.id"] = found.ids
        arrays[f"{split}.label"] = found.labels
        arrays[f"{split}.blank"] = (found.flags & BLANK) > 0
        arrays[f"{split}.leak"] = (found.flags & LEAK) > 0
        arrays.update({f"{split}.{view}": p for view, p in found.probabilities.items()})
        if found.target is not None:
            arrays[f"{split}.target"] = found.target
    for split, origin in (origins or {}).items():
        arrays[f"{split}.row"] = origin.rows
        if (origin.files != "").any():
            arrays[f"{split}.file"] = origin.files
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", _DATE)
            file.writestr(info, member.getvalue(), zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def load_predictions(
    path: Path, sha256: str, views: Sequence[View]
) -> dict[SplitName, Predictions]:
    """Read what `pack_predictions` made; nothing is ever unpickled.

    Args:
        path: of the file.
        sha256: of the file that the evaluation was computed from.
        views: that it must contain.

    Raises:
        UserError: it is missing, a different file, or damaged.
    """
    again = "evaluate the run again"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; {again}") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise UserError(f"{path} is not the file that evaluation.json was computed from; {again}")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return {
            split: Predictions(
                arrays[f"{split}.id"],
                arrays[f"{split}.label"],
                (BLANK * arrays[f"{split}.blank"] + LEAK * arrays[f"{split}.leak"]).astype(
                    np.uint8
                ),
                {view: arrays[f"{split}.{view}"] for view in views},
                arrays.get(f"{split}.target"),
            )
            for split in SPLIT_NAMES
            if f"{split}.id" in arrays
        }
    except Exception as error:  # damaged files raise anything, from EOFError to zlib.error
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} holds no predictions ({reason}); {again}") from error
