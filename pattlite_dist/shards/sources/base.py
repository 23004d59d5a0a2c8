"""What a reader of a data set gives: its samples in order, not yet decoded, and facts about it."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from pattlite_dist.errors import UserError
from pattlite_dist.shards.manifest import ImageInfo, SplitName

EMOTIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")  # FER2013's order
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Reading:
    """What the user says to a reader.

    Attributes:
        kind: of the source; `auto` looks at what is there.
        unlabelled: what to do about samples without a label.
        image_size: side of every image in pixels; None: the data set's own, or the first image's.
        channels: 1 for grey, 3 for colour; None as for `image_size`.
        other_images: what to do about images of another size or mode.
        votes: FER+'s `fer2013new.csv`, to be joined by row.
        target: the classes are those of the data set (`labels`), or FER+'s: the one with most of
            the votes (`majority`), or all by their share of the votes (`soft`).
    """

    kind: str = "auto"
    unlabelled: Literal["refuse", "skip"] = "refuse"
    image_size: int | None = None
    channels: Literal[1, 3] | None = None
    other_images: Literal["convert", "refuse"] = "convert"
    votes: Path | None = None
    target: Literal["labels", "majority", "soft"] = "labels"

    def words(self) -> dict[str, str]:
        """What differs from the default, for the manifest.

        Left out are where the votes lie, and the kind: the manifest tells the source's own, be it
        named or found.
        """
        told = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: str(value)
            for name, value in told.items()
            if name not in ("kind", "votes") and value != getattr(type(self), name)
        }


class Item(NamedTuple):
    """One sample as its source holds it; decoding is left to another process.

    Attributes:
        row: its place in the source, by which it is named for ever; rising, gaps allowed.
        label: from 0 to below the number of classes.
        split: None where the source does not say, and the stratified cut shall.
        data: the encoded image, or the text of its pixels.
        where: what messages call it: the file, and the row or member.
        group: samples with one group, such as those of a person, are never parted by the cut;
            empty for none.
        facts: goes into the sample's JSON, beside what every sample has.
    """

    row: int
    label: int
    split: SplitName | None
    data: bytes
    where: str
    group: str = ""
    facts: dict[str, Any] | None = None


class Decoder(Protocol):
    """Turns an item into pixels. It travels to other processes, so it can be pickled."""

    def __call__(self, item: Item) -> tuple[Pixels, bool]:
        """Pixels, uint8 [C, H, W], and whether they were converted from another size or mode.

        Raises:
            UserError: the item is damaged, or of a kind that the user wants refused.
        """
        ...


class Source(Protocol):
    """A data set that can be read, from its beginning each time."""

    kind: str
    name: str  # the same for the same content, wherever it lies
    labels: tuple[str, ...]
    votes: tuple[str, ...]  # the columns of the "votes" among a sample's facts; none: ()
    image: ImageInfo
    decode: Decoder
    cut: tuple[
        SplitName, ...
    ]  # what the cut has to make of the items without a split, beside train
    left_out: dict[str, int]  # how many samples `items` has passed over, by reason

    def items(self) -> Iterator[Item]:
        """Yield every sample; after the last one `sha256` and `left_out` are known."""
        ...

    @property
    def sha256(self) -> str:
        """Hash of the content, the same for each packing of it."""
        ...

    def stamp(self) -> str:
        """What changes when the files do, told without reading them: paths, sizes, times.

        Raises:
            UserError: they are gone.
        """
        ...

    def expected(self, items: int) -> int | None:
        """How many items there will be, as far as can be told after so many; for progress."""
        ...


def refusal(where: str, what: str, mend: str) -> UserError:
    """The error for one bad item."""
    return UserError(f"{where}: {what}; {mend}")


@contextlib.contextmanager
def refusing(where: str, mend: str) -> Iterator[None]:
    """Turn a `ValueError` that says what is wrong with one item into the error for it."""
    try:
        yield
    except ValueError as error:
        raise refusal(where, str(error), mend) from None
