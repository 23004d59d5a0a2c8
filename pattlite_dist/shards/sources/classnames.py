"""The classes that labels in tables and shards mean: emotions, other names, or numbers."""

import re
from collections.abc import Collection, Mapping, Sequence

from pattlite_dist.errors import UserError
from pattlite_dist.shards.sources.base import refusal
from pattlite_dist.shards.sources.spellings import EIGHT_EMOTIONS, class_name, shown

NAME_FILES = ("classnames.txt", "classes.txt", "labels.txt")
_NUMBER = re.compile(r"([0-9]{1,4})(?:\.0+)?", re.ASCII)  # pandas writes 3.0 beside empty fields
_MOST_CLASSES = 1000


def parse_names(data: bytes, where: str) -> tuple[str, ...]:
    """The names of classes 0, 1, ..., one on each line.

    Raises:
        UserError: they are not text, or a name is missing or appears twice.
    """
    fix = "give one name a line, in the order of the numbers"
    try:
        lines = data.decode("utf-8-sig").strip().splitlines()
    except UnicodeDecodeError as error:
        raise refusal(where, f"it is not text ({error.reason})", fix) from error
    names = tuple(class_name(line.strip()) for line in lines)
    if not names or not all(names) or len({name.casefold() for name in names}) < len(names):
        raise refusal(where, "a name is missing or appears twice", fix)
    return names


def number(text: str) -> int | None:
    """The whole number that a label is; None for any other text."""
    found = _NUMBER.fullmatch(text)
    return int(found[1]) if found else None


def name_classes(
    labels: Collection[str], samples: int, known: Mapping[int, str] | Sequence[str] = ()
) -> dict[str, str]:
    """The class that each label means.

    Args:
        labels: the different labels.
        samples: how many samples have them.
        known: the classes by number, if the labels are numbers, in any spelling.

    Raises:
        ValueError: numbers have no name, or there are so many labels that they are no classes.
    """
    if len(labels) > _MOST_CLASSES or (len(labels) > 20 and 2 * len(labels) > samples):
        example = shown(min(labels)[:40])
        raise ValueError(
            f"its {samples:,} samples have {len(labels):,} different labels, such as {example!r}, "
            "which cannot be classes"
        )
    numbers = {label: number(label) for label in labels}
    if any(place is None for place in numbers.values()):
        return {label: class_name(label) for label in labels}
    names = known if isinstance(known, Mapping) else dict(enumerate(known))
    if not names:
        raise ValueError(
            f"its labels are numbers ({', '.join(sorted(labels)[:8])}) and nothing names them"
        )
    for label, place in numbers.items():
        if place not in names:
            raise ValueError(f"the label {label} is not one of the {len(names)} named classes")
    return {label: class_name(names[n]) for label, n in numbers.items() if n is not None}


def in_order(named: Mapping[str, str]) -> tuple[str, ...]:
    """The classes in the order of the set: by name, or as in `EIGHT_EMOTIONS` if all are emotions.

    Raises:
        UserError: there are fewer than two.
    """
    names = tuple(sorted(set(named.values())))
    if len(names) < 2:
        raise UserError(
            f"all samples are of one class ({', '.join(names)}), but two are needed; give more data"
        )
    if set(names) <= set(EIGHT_EMOTIONS):
        return tuple(name for name in EIGHT_EMOTIONS if name in names)
    return names
