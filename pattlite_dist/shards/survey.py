"""Look at a whole source before anything is written: bad rows, blanks, leaks."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pattlite_dist.shards.manifest import SPLIT_NAMES, Findings, SplitName
from pattlite_dist.shards.sources import Source

# Called with what is being done, rows done, and rows in all (None while that is unknown).
Progress = Callable[[str, int, int | None], None]


@dataclass
class Survey:
    """What one pass over a source found; enough to flag every row in the second pass."""

    splits: list[SplitName] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    blank: list[bool] = field(default_factory=list)

    def leaks(self) -> list[bool]:
        """For each val or test row, whether a byte-identical image is in train."""
        train = {d for d, split in zip(self.digests, self.splits, strict=True) if split == "train"}
        return [
            split != "train" and digest in train
            for digest, split in zip(self.digests, self.splits, strict=True)
        ]

    def findings(self) -> dict[SplitName, Findings]:
        """What the manifest tells of each split."""
        leaks = self.leaks()
        result: dict[SplitName, Findings] = {}
        for split in SPLIT_NAMES:
            rows = [i for i, name in enumerate(self.splits) if name == split]
            blank = [i for i in rows if self.blank[i]]
            result[split] = Findings(
                blank_rows=blank,
                dropped_rows=blank if split == "train" else [],
                leaks=sum(leaks[i] for i in rows),
            )
        return result


def survey(source: Source, progress: Progress) -> Survey:
    """Read the whole source once, so that every bad row is found before anything is written."""
    found = Survey()
    for row in source.rows():
        found.splits.append(row.split)
        found.digests.append(hashlib.sha256(row.image.tobytes()).digest())
        found.blank.append(is_blank(row.image))
        progress("survey", row.index + 1, None)
    return found


def is_blank(image: NDArray[np.uint8]) -> bool:
    """Whether every pixel has one value, so that there is nothing to see."""
    return bool((image == image.flat[0]).all())
