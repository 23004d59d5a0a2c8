"""The interface of a data set reader: its samples in order, not yet decoded, and its metadata."""

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
    """The user's options for a reader.

    Attributes:
        kind: of the source; `auto` detects it.
        unlabelled: what to do with samples without a label.
        image_size: side of every image in pixels; None: the data set's own, or the commonest.
        channels: 1 for grey, 3 for colour; None as for `image_size`.
        other_images: what to do with images of another size or mode.
        damaged: what to do with images that cannot be decoded.
        votes: FER+'s `fer2013new.csv`, joined by row number.
        target: the classes are the data set's (`labels`), or FER+'s: the one with the majority of
            the votes (`majority`), or all by their share of the votes (`soft`).
        image_column, label_column, split_column: of a label table, or the member or JSON key of a
            WebDataset sample; None: found by their usual names.
        allow_pipe: whether the source may be a command.
    """

    kind: str = "auto"
    unlabelled: Literal["refuse", "skip"] = "refuse"
    image_size: int | None = None
    channels: Literal[1, 3] | None = None
    other_images: Literal["convert", "refuse"] = "convert"
    damaged: Literal["stop", "skip"] = "stop"
    votes: Path | None = None
    target: Literal["labels", "majority", "soft"] = "labels"
    image_column: str | None = None
    label_column: str | None = None
    split_column: str | None = None
    allow_pipe: bool = False

    def words(self) -> dict[str, str]:
        """What differs from the defaults, for the manifest.

        The path of the votes is left out, and so is the kind: the manifest has the source's own,
        whether named or detected. Whether a command may run is not a property of the data.
        """
        told = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: str(value)
            for name, value in told.items()
            if name not in ("kind", "votes", "allow_pipe") and value != getattr(type(self), name)
        }


class Item(NamedTuple):
    """One sample as stored in its source; it is decoded in another process.

    Attributes:
        row: its position in the source, which names it forever; increasing, gaps allowed.
        label: from 0 to below the number of classes.
        split: None if the source does not say, so that the stratified cut decides.
        data: the encoded image, or the text of its pixels.
        where: its name in messages: the file, and the row or member.
        group: samples of the same group, such as one person's, are never separated by the cut;
            empty for none.
        facts: added to the JSON that every sample has.
        damage: the message of a `Damaged` error, if not even its bytes could be read.
    """

    row: int
    label: int
    split: SplitName | None
    data: bytes
    where: str
    group: str = ""
    facts: dict[str, Any] | None = None
    damage: str = ""


class Damaged(UserError):
    """One image cannot be used; `--damaged skip` leaves it out."""


class Decoder(Protocol):
    """Turns an item into pixels. Picklable, because it is passed to other processes."""

    def __call__(self, item: Item) -> tuple[Pixels, bool]:
        """Pixels, uint8 [C, H, W], and whether they were converted from another size or mode.

        Raises:
            Damaged: the item cannot be decoded.
            UserError: it is of a kind that the user chose to refuse.
        """
        ...


class Hashed:
    """A reader that knows the hash of its content once all of that has been read."""

    _sha256 = ""
    _read_by = "items"  # the method that reads it

    @property
    def sha256(self) -> str:
        """Hash of the content; known once its reading has come to the end."""
        if not self._sha256:
            raise RuntimeError(
                f"the hash is known only after {self._read_by}() has been read to its end"
            )
        return self._sha256


class Source(Protocol):
    """A data set that can be read, each time from the beginning.

    It may also have `notes`, see `notes_of`.
    """

    kind: str
    name: str  # the same for the same content, wherever it is stored
    labels: tuple[str, ...]
    votes: tuple[str, ...]  # columns of the "votes" in a sample's facts; () for none
    image: ImageInfo
    decode: Decoder
    cut: tuple[SplitName, ...]  # splits to cut from the items without one, besides train
    left_out: dict[str, int]  # how many samples `items` has skipped, by reason

    def items(self) -> Iterator[Item]:
        """Yield every sample; after the last one `sha256` and `left_out` are known."""
        ...

    @property
    def sha256(self) -> str:
        """Hash of the content, however it is packed."""
        ...

    def stamp(self) -> str:
        """A value that changes when the files do, without reading them: paths, sizes, times.

        Raises:
            UserError: the files are gone.
        """
        ...

    def expected(self, items: int) -> int | None:
        """Estimated total number of items after reading `items` of them; for progress."""
        ...


def notes_of(source: Source) -> tuple[str, ...]:
    """Lines for the user about what a source concluded, passed over or chose."""
    return tuple(getattr(source, "notes", ()))


def refusal(where: str, what: str, fix: str) -> UserError:
    """The error for one bad item."""
    return UserError(f"{where}: {what}; {fix}")


def damage(where: str, what: str, fix: str) -> Damaged:
    """The error for one image that cannot be used."""
    return Damaged(f"{where}: {what}; {fix}")


@contextlib.contextmanager
def refusing(where: str, fix: str) -> Iterator[None]:
    """Turn a `ValueError` that says what is wrong with one item into the error for it."""
    try:
        yield
    except ValueError as error:
        raise refusal(where, str(error), fix) from None
