"""The common base of all data sets of image files."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pattlite_dist.errors import UserError
from pattlite_dist.shards.manifest import ImageInfo, SplitName
from pattlite_dist.shards.sources.base import Damaged, Decoder, Hashed, Item, Reading
from pattlite_dist.shards.sources.files import Files
from pattlite_dist.shards.sources.forms import form_of_most
from pattlite_dist.shards.sources.images import EncodedImage, set_image
from pattlite_dist.shards.sources.passed import counted


class Picture(NamedTuple):
    """One image file and what its location says; see `Item`."""

    name: str
    label: int
    split: SplitName | None
    group: str = ""
    facts: dict[str, Any] | None = None


class ImageFiles(Hashed):
    """A data set of image files whose labels come from names and lists.

    Rows are numbered from 0 in the order of the pictures. The hash covers their names and contents
    in this order, so that a folder and a zip of it have the same hash. A sample's facts include
    its `file`.

    Args:
        kind: of the source.
        files: where the pictures are.
        reading: the user's options.
        labels: of the classes.
        pictures: at least one.
        own: size and mode that the data set is known to have; None takes the commonest.
        cut: splits to cut from the pictures without one.
        left_out: how many files were skipped, by reason.
        skipped: names of more such files, by reason; they are told by suffix and folder.
        lists: names of files, besides the pictures, on which the labels depend.
        notes: lines for the user about what was concluded.

    Raises:
        UserError: there are no pictures, or none that is needed can be read.
    """

    votes: tuple[str, ...] = ()

    def __init__(
        self,
        kind: str,
        files: Files,
        reading: Reading,
        labels: Sequence[str],
        pictures: Sequence[Picture],
        *,
        own: ImageInfo | None = None,
        cut: tuple[SplitName, ...] = (),
        left_out: Mapping[str, int] | None = None,
        skipped: Mapping[str, Sequence[str]] | None = None,
        lists: Sequence[str] = (),
        notes: Sequence[str] = (),
    ) -> None:
        skipped = {reason: names for reason, names in (skipped or {}).items() if names}
        if not pictures:
            found = [f"{counted(names)} ({reason})" for reason, names in skipped.items()]
            raise UserError(
                f"{files.path} has no labelled images to train on"
                f"{', only ' if found else ''}{', '.join(found)}; give a folder or zip of a kind "
                "that `pattlite shards sources` lists"
            )
        self.kind = self.name = kind
        self.labels = tuple(labels)
        self.cut = cut
        self.left_out = {reason: count for reason, count in (left_out or {}).items() if count}
        self.left_out |= {reason: len(names) for reason, names in skipped.items()}
        self.notes: Sequence[str] = [
            *notes,
            *(f"passed over, {reason}: {counted(names)}" for reason, names in skipped.items()),
        ]
        self._files, self._pictures, self._lists = files, pictures, lists
        name = pictures[0].name
        if own is None and (reading.image_size is None or reading.channels is None):
            own, note = form_of_most(files, [picture.name for picture in pictures], reading)
            self.notes = [*self.notes, note] if note else self.notes
        self.image = set_image(reading, own, lambda: (files.read(name), files.where(name)))
        self.decode: Decoder = EncodedImage(self.image, reading.other_images)

    def items(self) -> Iterator[Item]:
        """Yield every picture; the damaged ones for the decoder to refuse.

        Raises:
            UserError: a file is gone or cannot be read.
        """
        digest = hashlib.sha256()
        for name in self._lists:
            digest.update(_entry(name, self._files.read(name)))
        for row, (name, label, split, group, facts) in enumerate(self._pictures):
            data, damage = b"", ""
            try:
                data = self._files.read(name)
            except Damaged as error:
                damage = str(error)
            digest.update(_entry(name, data))
            where, facts = self._files.where(name), {"file": name, **(facts or {})}
            yield Item(row, label, split, data, where, group, facts, damage)
        self._sha256 = digest.hexdigest()

    def stamp(self) -> str:
        """A hash of names, sizes and times.

        Raises:
            UserError: the files are gone.
        """
        return self._files.stamp()

    def expected(self, items: int) -> int | None:
        """The number of pictures, however many have been read."""
        return len(self._pictures)


def _entry(name: str, data: bytes) -> bytes:
    return name.encode() + b"\0" + hashlib.sha256(data).digest()
