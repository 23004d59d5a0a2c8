"""The types of strings that may name a place on this machine.

A job may start in any folder, so every path passed to it is made absolute first. What is a path is
stated once, by the type of an option or of a field of the configuration.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel

M = TypeVar("M", bound=BaseModel)


def is_local(text: str) -> bool:
    """Whether a location is a path on this machine: not an address or a `pipe:` command."""
    return "://" not in text and not text.startswith("pipe:")


@dataclass(frozen=True)
class Place:
    """Marks the type of a string: a path, an address or a command, or one of a few words.

    Attributes:
        words: that have another meaning.
    """

    words: tuple[str, ...] = ()

    def absolute(self, text: str) -> str:
        """A path made absolute; anything else unchanged."""
        if text in self.words or not is_local(text):
            return text
        return os.path.abspath(text)  # noqa: PTH100  a link's own place


Location = Annotated[str, Place()]
Weights = Annotated[str, Place(words=("imagenet", "none"))]


def absolute(value: Any, kind: Any, marks: Iterable[Any] = ()) -> Any:
    """A value as a job may use it: absolute if its type says that it is a path.

    Args:
        value: of an option or a field.
        kind: its type; may be one of several, as in `Location | None`.
        marks: of the type, if they were removed from it.
    """
    if isinstance(value, BaseModel):
        return with_absolute_paths(value)
    if isinstance(value, Path):
        return Path(os.path.abspath(value))  # noqa: PTH100  a link's own place
    if isinstance(value, str):
        for place in _places([*marks, *_marks(kind)]):
            return place.absolute(value)
    return value


def with_absolute_paths(model: M) -> M:
    """The same model, in which every path is absolute, at any depth."""
    changes = {
        name: absolute(getattr(model, name), field.annotation, field.metadata)
        for name, field in type(model).model_fields.items()
    }
    return model.model_copy(update=changes)


def _marks(kind: Any) -> Iterator[Any]:
    for part in get_args(kind):
        yield part
        yield from _marks(part)


def _places(marks: Iterable[Any]) -> Iterator[Place]:
    return (mark for mark in marks if isinstance(mark, Place))
