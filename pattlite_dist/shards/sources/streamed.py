"""The common base of sources whose files contain the images: read twice, labels first."""

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from pattlite_dist.errors import UserError
from pattlite_dist.shards.manifest import SplitName
from pattlite_dist.shards.sources.base import Decoder, Hashed, Item, Reading, refusal
from pattlite_dist.shards.sources.classnames import in_order, name_classes, number
from pattlite_dist.shards.sources.forms import MOST_EXAMINED, Form, decided, form_of
from pattlite_dist.shards.sources.images import EncodedImage, set_image
from pattlite_dist.shards.sources.spellings import shown


class Loose(NamedTuple):
    """A sample as it is stored, before its class is known.

    Attributes:
        data: the encoded image; empty if there is none.
        label: text or a number as text; empty if there is none.
        called: the class's name, if the sample has it besides a number.
        split: None if nothing says it.
        where: its name in messages.
        file: its name in the source.
    """

    data: bytes
    label: str
    called: str
    split: SplitName | None
    where: str
    file: str


class Streamed(Hashed, ABC):
    """A source that is read once for its labels and once for its images.

    Rows are positions in the source, those of skipped samples included. Splits that it lacks are
    cut from train. A subclass calls `_survey` when it is ready to be read.

    Attributes:
        where: the source in messages.
    """

    votes: tuple[str, ...] = ()
    kind: str
    name: str
    where: str
    notes: Sequence[str] = ()

    @abstractmethod
    def _each(self) -> Iterator[Loose]:
        """Yield every sample, each time from the beginning."""

    @abstractmethod
    def _known(self) -> Sequence[str] | Mapping[int, str]:
        """The classes by number; empty if nothing names them."""

    def _survey(self, reading: Reading) -> None:
        """Read the labels.

        Raises:
            UserError: there are none, they are no classes, or a class has no image in train.
        """
        labels: Counter[str] = Counter()
        called: dict[int, str] = {}
        trained: set[str] = set()
        left_out: Counter[str] = Counter()
        first: Loose | None = None
        forms: list[Form] = []
        splits: set[SplitName | None] = set()
        for sample in self._each():
            if not sample.data:
                left_out["no image"] += 1
                continue
            if not sample.label:
                if reading.unlabelled == "refuse":
                    raise refusal(sample.where, "it has no label", self._label_fix())
                left_out["no label"] += 1
                continue
            first = first or sample
            labels[sample.label] += 1
            splits.add(sample.split)
            if sample.split in (None, "train"):
                trained.add(sample.label)
            if len(forms) < MOST_EXAMINED and (form := form_of(sample.data)) is not None:
                forms.append(form)
            place = number(sample.label)
            if place is not None and sample.called:
                called.setdefault(place, sample.called)
        if first is None:
            told = ", ".join(f"{count:,} with {reason}" for reason, count in left_out.items())
            what = f"it has no labelled images ({told or 'it is empty'})"
            raise refusal(self.where, what, self._label_fix())
        self.left_out = dict(left_out)
        self._count = labels.total()
        numbers = all(number(label) is not None for label in labels)
        try:
            named = name_classes(labels, self._count, (self._known() or called) if numbers else ())
        except ValueError as error:
            raise refusal(self.where, str(error), self._name_fix()) from None
        for name in sorted({*named.values()} - {named[label] for label in trained}):
            raise UserError(
                f"{self.where}: the class {shown(name)!r} has no images in train; add some"
            )
        self.labels = in_order(named)
        self._numbers = {label: self.labels.index(name) for label, name in named.items()}
        wanted: tuple[SplitName, ...] = ("val", "test")
        self.cut = tuple(split for split in wanted if split not in splits)
        sample = first
        own, note = decided(forms, self._count, reading)
        self.notes = [note] if note else []
        self.image = set_image(reading, own, lambda: (sample.data, sample.where))
        self.decode: Decoder = EncodedImage(self.image, reading.other_images)

    def _label_fix(self) -> str:
        return "name the labels with --label-column, or skip such samples with --unlabelled skip"

    @abstractmethod
    def _name_fix(self) -> str:
        """What to do if the labels are no classes, or numbers without names."""

    def items(self) -> Iterator[Item]:
        """Yield every labelled image.

        Raises:
            UserError: a file is gone or has changed.
        """
        digest = hashlib.sha256()
        for row, sample in enumerate(self._each()):
            if not sample.data or not sample.label:
                continue
            if sample.label not in self._numbers:
                raise refusal(sample.where, "its label has changed", "run the command again")
            label = self._numbers[sample.label]
            head = f"{sample.file}\0{self.labels[label]}\0{sample.split}\0".encode()
            digest.update(head + hashlib.sha256(sample.data).digest())
            split = None if self.cut and sample.split == "train" else sample.split
            yield Item(row, label, split, sample.data, sample.where, "", {"file": sample.file})
        self._sha256 = digest.hexdigest()

    def expected(self, items: int) -> int | None:
        """The number of labelled images, however many have been read."""
        return self._count
