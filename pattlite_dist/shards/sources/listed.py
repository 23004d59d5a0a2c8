"""The common base of data sets whose tables say which image is of which class."""

import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pattlite_dist.errors import UserError
from pattlite_dist.shards.manifest import ImageInfo, SplitName
from pattlite_dist.shards.sources.base import Item, Pixels, Reading, damage, refusal
from pattlite_dist.shards.sources.classnames import NAME_FILES, in_order, name_classes, parse_names
from pattlite_dist.shards.sources.files import Files
from pattlite_dist.shards.sources.imagefiles import ImageFiles, Picture
from pattlite_dist.shards.sources.images import EncodedImage, open_image
from pattlite_dist.shards.sources.spellings import is_image, shown, split_folder

Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels; the last two are outside


class Entry(NamedTuple):
    """One labelled image, as a table has it.

    Attributes:
        name: of the file.
        label: as the table spells it.
        split: None if nothing says it.
        where: the line of the table, for messages.
        box: of the face; None for the whole image.
        facts: added to the sample's JSON.
    """

    name: str
    label: str
    split: SplitName | None
    where: str
    box: Box | None = None
    facts: dict[str, Any] | None = None


class Lookup:
    """Finds the file that a table means, wherever the table and the images were put."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = set(names)
        self._by_file: dict[str, list[str]] = {}
        for name in sorted(self._names):
            file = name.rpartition("/")[2]
            self._by_file.setdefault(file, []).append(name)
            if is_image(file):
                self._by_file.setdefault(file.rpartition(".")[0], []).append(name)

    def find(self, text: str, folder: str = "") -> str:
        """The file for `text`: a path, a name, or a name without its suffix.

        Args:
            text: from the table.
            folder: of the table, empty or with a final `/`; looked in first.

        Raises:
            ValueError: there is none, or several fit equally well.
        """
        path = text.replace("\\", "/").removeprefix("./")
        for name in (folder + path, path):
            if name in self._names:
                return name
        *above, file = path.split("/")
        fitting = Counter({n: _shared(n, above) for n in self._by_file.get(file, [])})
        if not fitting:
            raise ValueError(f"there is no image {shown(text[:80])!r}")
        most = max(fitting.values())
        best = [name for name, parts in fitting.items() if parts == most]
        best = [name for name in best if name.startswith(folder)] or best
        if len(best) > 1:
            raise ValueError(f"{shown(text[:80])!r} may be any of {len(best)} images")
        return best[0]


def _shared(name: str, above: Sequence[str]) -> int:
    """How many folders directly above a file are the same."""
    folders, count = name.split("/")[:-1], 0
    for mine, wanted in zip(reversed(folders), reversed(above), strict=False):
        if mine != wanted:
            break
        count += 1
    return count


def split_in(name: str) -> SplitName | None:
    """The split that a name contains as a word: `train_labels.csv`, `fer_val-00.tar`.

    None if it contains none, or several.
    """
    words = name.replace("-", "_").replace(".", "_").split("_")
    found = {split for word in words if (split := split_folder(word)) is not None}
    return found.pop() if len(found) == 1 else None


def splits_in(paths: Sequence[str]) -> list[SplitName | None]:
    """The split of each path, from the name of the file or else of a folder, the nearest first.

    None for all if they do not differ: what is common to all, such as `my_test/`, says nothing.
    """
    found: list[SplitName | None] = []
    for path in paths:
        *folders, file = path.split("/")
        words = [file.partition(".")[0], *reversed(folders)]
        found.append(next((split for word in words if (split := split_in(word))), None))
    return found if len(set(found)) > 1 else [None] * len(found)


class CroppedImage(NamedTuple):
    """Decoder for faces in larger images: cuts out the box in the item's facts.

    The rest, such as the conversion to the set's size and mode, is that of whole images. Only the
    part of a box that lies in the image is used.
    """

    whole: EncodedImage

    def __call__(self, item: Item) -> tuple[Pixels, bool]:
        """See `Decoder`."""
        picture, _ = open_image(item.data, item.where)
        left, top, right, bottom = (item.facts or {})["box"]
        inside = (max(left, 0), max(top, 0), min(right, picture.width), min(bottom, picture.height))
        if inside[0] >= inside[2] or inside[1] >= inside[3]:
            raise damage(
                item.where,
                f"the box {left}, {top}, {right}, {bottom} is not in the image of "
                f"{picture.width}x{picture.height} pixels",
                "use the images that the boxes were made for",
            )
        cut = io.BytesIO()
        picture.crop(inside).save(cut, "BMP")
        return self.whole(item._replace(data=cut.getvalue()))


class Listed(ImageFiles):
    """Images in the order of their tables.

    Splits that the tables lack are cut from train. The hash covers what the tables say about each
    image. Images that no table names are left out.

    Args:
        kind: of the source.
        files: where the images are.
        reading: the user's options.
        entries: the labelled images.
        name: of the source for people: what was read from where.
        known: the classes by number, if the labels are numbers.
        labels: the classes in the order of the set; None for those found, in the usual order.
        own: size and mode that the data set is known to have.
        left_out: how many images were skipped, by reason.
        notes: lines for the user about what was concluded.

    Raises:
        UserError: there are no entries, two name the same image, labels are no classes, a class
            has no image in train, or boxes are given but no size of the set.
    """

    def __init__(
        self,
        kind: str,
        files: Files,
        reading: Reading,
        entries: Sequence[Entry],
        *,
        name: str,
        known: Mapping[int, str] | None = None,
        labels: Sequence[str] | None = None,
        own: ImageInfo | None = None,
        left_out: Mapping[str, int] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        shown_path = shown(str(files.path))
        if not entries:
            raise UserError(f"{shown_path}: its tables name no image; copy it again")
        _check_once(entries)
        try:
            named = name_classes(
                {entry.label for entry in entries}, len(entries), known or _known(files)
            )
        except ValueError as error:
            raise UserError(
                f"{shown_path}: {error}; choose the column of the classes with --label-column, or "
                f"write the names in the order of the numbers, one a line, in {NAME_FILES[0]}"
            ) from None
        order = tuple(labels or in_order(named))
        there = {entry.split for entry in entries}
        wanted: tuple[SplitName, ...] = ("val", "test")
        cut = tuple(split for split in wanted if split not in there)
        _check_trained(shown_path, entries, named)
        theirs = {entry.name for entry in entries}
        boxes = any(entry.box for entry in entries)
        super().__init__(
            kind,
            files,
            reading,
            order,
            [_picture(entry, order.index(named[entry.label]), cut) for entry in entries],
            own=_boxed_image(shown_path, reading) if boxes else own,
            cut=cut,
            left_out=left_out,
            skipped={"not in the table": [name for name in files.images if name not in theirs]},
            notes=notes,
        )
        self.name = name
        if boxes:
            self.decode = CroppedImage(EncodedImage(self.image, reading.other_images))
        digest = hashlib.sha256()
        for entry in entries:
            digest.update(f"{entry._replace(where='')}\n".encode())
        self._tables = digest.hexdigest()

    @property
    def sha256(self) -> str:
        """Hash of the images' and of what the tables say about them; known after `items`."""
        return hashlib.sha256(f"{super().sha256}+{self._tables}".encode()).hexdigest()


def _picture(entry: Entry, label: int, cut: tuple[SplitName, ...]) -> Picture:
    facts, group = dict(entry.facts or {}), ""
    if entry.box is not None:
        facts["box"] = list(entry.box)
        group = entry.name  # faces in the same image stay in the same split
    split = None if cut and entry.split == "train" else entry.split
    return Picture(entry.name, label, split, group, facts)


def _check_once(entries: Iterable[Entry]) -> None:
    seen: dict[tuple[str, Box | None], str] = {}
    for entry in entries:
        first = seen.setdefault((entry.name, entry.box), entry.where)
        if first is not entry.where:
            raise refusal(
                entry.where,
                f"it names {shown(entry.name)} again, after {first}",
                "remove one of the two, or give the one table to read",
            )


def _check_trained(where: str, entries: Iterable[Entry], named: Mapping[str, str]) -> None:
    trained = {named[entry.label] for entry in entries if entry.split in (None, "train")}
    for name in sorted({*named.values()} - trained):
        raise UserError(f"{where}: the class {shown(name)!r} has no images in train; add some")


def _boxed_image(where: str, reading: Reading) -> ImageInfo:
    if reading.image_size is None:
        raise UserError(
            f"{where}: the faces in its boxes are of many sizes; give that of the set, such as "
            "--image-size 100"
        )
    side = min(max(reading.image_size, 1), 1 << 16)  # `set_image` checks it
    return ImageInfo(channels=reading.channels or 3, height=side, width=side)


def _known(files: Files) -> tuple[str, ...]:
    """The names of the classes in a file beside the tables, if there is one."""
    for name in NAME_FILES:
        if name in files.names:
            return parse_names(files.read(name), files.where(name))
    return ()
