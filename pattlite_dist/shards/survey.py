"""What a pass over a source found about each sample, as arrays, and what follows from it."""

import hashlib
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

NEAR_BLANK = 5  # standard deviation of pixels from 0 to 255
SEEN_BLANK, SEEN_NEAR_BLANK, SEEN_CONVERTED = 1, 2, 4  # bits of Survey.seen
UNSPLIT = -1


@dataclass(frozen=True)
class Survey:
    """The samples of a source in order, without their pixels.

    Attributes:
        rows: int64 [n], positions in the source.
        labels: int64 [n].
        splits: int8 [n], indices into SPLIT_NAMES, or UNSPLIT.
        groups: int64 [n]; samples with the same number (0 or more) belong together; -1: no group.
        digests: uint64 [n, 2], equal if and only if the pixels are.
        seen: uint8 [n], a sum of the SEEN bits.
        facts: what the source says about each sample; empty if it says nothing about any.
    """

    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    splits: NDArray[np.int8]
    groups: NDArray[np.int64]
    digests: NDArray[np.uint64]
    seen: NDArray[np.uint8]
    facts: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.rows)


class Copies(NamedTuple):
    """Which samples share an image.

    Attributes:
        group: int64 [n], the number of the sample's distinct image, from 0.
        counts: int64 [n], how many samples have this image.
        conflict: bool [n], whether they have different labels.
    """

    group: NDArray[np.int64]
    counts: NDArray[np.int64]
    conflict: NDArray[np.bool_]


def digest(image: NDArray[np.uint8]) -> bytes:
    """16 bytes that identify the pixels of an image."""
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()


def contrast(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """SEEN_BLANK, SEEN_NEAR_BLANK or neither for images [n, ...].

    In integer arithmetic, so that no two machines disagree about a sample.
    """
    pixels = images.reshape(len(images), -1)
    size = pixels.shape[1]
    sums = pixels.sum(axis=1, dtype=np.int64)
    # A square fits in 16 bits; their sum needs more.
    squares = np.square(pixels, dtype=np.uint16).sum(axis=1, dtype=np.int64)
    spread = size * squares - sums**2  # size^2 times the variance
    near = np.where(spread < NEAR_BLANK**2 * size**2, SEEN_NEAR_BLANK, 0)
    return np.where(spread == 0, SEEN_BLANK, near).astype(np.uint8)


def find_copies(digests: NDArray[np.uint64], labels: NDArray[np.int64]) -> Copies:
    """Group samples by their image; see `Survey` for the arrays."""
    _, group, counts = np.unique(digests, axis=0, return_inverse=True, return_counts=True)
    group = group.reshape(-1).astype(np.int64)  # only NumPy 2.0 adds an axis
    low = np.full(len(counts), np.iinfo(np.int64).max)
    high = np.full(len(counts), -1)
    np.minimum.at(low, group, labels)
    np.maximum.at(high, group, labels)
    return Copies(group, counts[group].astype(np.int64), (low != high)[group])
