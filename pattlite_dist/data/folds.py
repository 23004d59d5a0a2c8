"""Folds of the training samples: a run leaves one out, so that it can be asked about it.

A sample's fold is a function of its pixels alone. So copies of an image are in the same fold, and
what a run is asked about it has not seen, whatever the order, the shards or the number of ranks.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from pattlite_dist.data.reader import ShardReader

_CHUNK = 8192  # samples read at a time


def folds_of(reader: ShardReader, folds: int) -> NDArray[np.int64]:
    """The fold of each sample of a split, int64 [samples], from 0 to `folds` - 1.

    Args:
        reader: of the split; a bad shard must stop it, as its images are not known.
        folds: their number.

    Raises:
        UserError: a shard cannot be read or is not what the manifest says.
    """
    found = np.empty(len(reader), np.int64)
    for start in range(0, len(reader), _CHUNK):
        ids = np.arange(start, min(start + _CHUNK, len(reader)))
        found[ids] = [fold_of(image, folds) for image in reader.gather(ids).block.images]
    return found


def fold_of(image: NDArray[np.uint8], folds: int) -> int:
    """The fold of an image, uint8 [C, H, W]."""
    digest = hashlib.sha256(np.ascontiguousarray(image).tobytes()).digest()
    return int.from_bytes(digest[:8], "little") % folds
