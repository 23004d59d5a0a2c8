"""Sources for tests: one of arrays in memory, and any source's samples decoded."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pattlite_dist.shards.manifest import ImageInfo, SplitName
from pattlite_dist.shards.sources.base import Item, Pixels, Source


class Row(NamedTuple):
    """A decoded sample."""

    index: int
    label: int
    split: SplitName | None
    image: Pixels


def read_rows(source: Source) -> Iterator[Row]:
    for item in source.items():
        yield Row(item.row, item.label, item.split, source.decode(item)[0])


class _Raw(NamedTuple):
    """Decodes pixels that are bytes as they are."""

    shape: tuple[int, int, int]

    def __call__(self, item: Item) -> tuple[Pixels, bool]:
        return np.frombuffer(item.data, np.uint8).reshape(self.shape), False


class ArraySource:
    """Samples of arrays: images uint8 [n, C, H, W]."""

    kind = "memory"
    votes: tuple[str, ...] = ()

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: Sequence[int],
        splits: Sequence[SplitName | None],
        classes: tuple[str, ...],
        groups: Sequence[str] | None = None,
        cut: tuple[SplitName, ...] = ("val", "test"),
    ) -> None:
        self.images, self.numbers, self.splits, self.labels = images, labels, splits, classes
        self.groups, self.cut = groups or [""] * len(labels), cut
        shape: tuple[int, int, int] = images.shape[1:]  # type: ignore[assignment]
        self.decode = _Raw(shape)
        self.image = ImageInfo.model_validate(
            dict(zip(("channels", "height", "width"), shape, strict=True))
        )
        self.name = f"random {shape}"
        self.left_out: dict[str, int] = {}

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.images.tobytes()).hexdigest()

    def stamp(self) -> str:
        return self.sha256

    def expected(self, items: int) -> int | None:
        return len(self.images)

    def items(self) -> Iterator[Item]:
        columns = zip(self.numbers, self.splits, self.images, self.groups, strict=True)
        for row, (label, split, image, group) in enumerate(columns):
            yield Item(row, int(label), split, image.tobytes(), f"sample {row}", group)
