"""The types of strings that may name a place on this machine.

A job may start in any folder, so every path passed to it is made absolute first. What is a path is
stated once, by the type of an option or of a field of the configuration.
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel

from pattlite_dist.logins import without_secrets

M = TypeVar("M", bound=BaseModel)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:(?=/|$)")  # a Path has lost a slash
BUCKETS = ("s3", "gs", "az")
PRETRAINED = "pretrained"  # weights that come with the package: their best, or `pretrained:NAME`


def is_local(text: str) -> bool:
    """Whether a location is a path on this machine: not an address or a `pipe:` command."""
    return "://" not in text and not text.startswith("pipe:")


def is_pretrained(text: str) -> bool:
    """Whether a model is named that comes with the package; `./pretrained` is a file or folder."""
    return text.partition(":")[0] == PRETRAINED


def no_weights(key: str, where: str | Path) -> str:
    """What to say of a file or folder of weights that is not there.

    Args:
        key: of the configuration, which names it.
        where: it should be.
    """
    more = ", `imagenet` to download torchvision's, `pretrained`, or `none`"
    return (
        f"{key}: {where} does not exist; give a local file, a checkpoint or a run folder of "
        f"yours{more if key == 'model.weights' else ', or `pretrained`'}"
    )


@dataclass(frozen=True)
class Place:
    """Marks the type of a string: a path, an address or a command, or one of a few words.

    Attributes:
        words: that have another meaning.
        pretrained: whether it may name weights that come with the package.
        schemes: of the addresses that are understood beside paths; None: any, and commands.
        brought: of a run in a bucket, what is brought to this machine before its verb begins:
            `all`, or `record` for all but the checkpoints, or nothing.
    """

    words: tuple[str, ...] = ()
    pretrained: bool = False
    schemes: tuple[str, ...] | None = None
    brought: Literal["all", "record", ""] = ""

    def absolute(self, text: str) -> str:
        """A path made absolute; anything else unchanged."""
        if self.is_word(text) or not is_local(text):
            return text
        return os.path.abspath(text)  # noqa: PTH100  a link's own place

    def is_word(self, text: str) -> bool:
        """Whether it is no place."""
        return text in self.words or (self.pretrained and is_pretrained(text))

    def refuses(self, text: str) -> bool:
        """Whether it is an address or a command that is not understood."""
        if self.schemes is None or is_local(text):
            return False
        return text.partition("://")[0] not in self.schemes


Location = Annotated[str, Place()]
Folder = Annotated[str, Place(schemes=())]
Runs = Annotated[str, Place(schemes=BUCKETS)]
Run = Annotated[str, Place(pretrained=True, schemes=BUCKETS, brought="all")]
Record = Annotated[str, Place(schemes=BUCKETS, brought="record")]
# Keys of the configuration keep an address, and bring what it names where they are read.
Weights = Annotated[str, Place(words=("imagenet", "none"), pretrained=True, schemes=BUCKETS)]
Network = Annotated[str, Place(pretrained=True, schemes=BUCKETS)]
GOALS = ("labels", "votes")
Goal = Annotated[str, Place(words=GOALS, schemes=())]


def absolute(value: Any, kind: Any, marks: Iterable[Any] = ()) -> Any:
    """A value as a job may use it: absolute if its type says that it is a path.

    Args:
        value: of an option or a field.
        kind: its type; may be one of several, as in `Location | None`, or that of a list of them.
        marks: of the type, if they were removed from it.
    """
    if isinstance(value, BaseModel):
        return with_absolute_paths(value)
    if isinstance(value, Path):
        return Path(os.path.abspath(value))  # noqa: PTH100  a link's own place
    if isinstance(value, str):
        for place in _places([*marks, *_marks(kind)]):
            return place.absolute(value)
    if isinstance(value, list | tuple):
        return type(value)(absolute(one, kind, marks) for one in value)
    return value


def brought(kind: Any) -> Literal["all", "record", ""]:
    """What of a run in a bucket is brought to this machine, for an option of this type."""
    return next((place.brought for place in _places(_marks(kind)) if place.brought), "")


def is_bucket(text: str) -> bool:
    """Whether a place is a folder in a bucket."""
    scheme, mark, _ = text.partition("://")
    return bool(mark) and scheme in BUCKETS


def refused(value: Any, kind: Any, marks: Iterable[Any] = ()) -> str | None:
    """What is wrong with an address where its type says that only a path is understood; else None.

    It would be taken for a folder of that name, here, and what is kept in it would be lost with
    this machine.

    Args:
        value: of an option or a field.
        kind: its type, as for `absolute`.
        marks: of the type, if they were removed from it.
    """
    if isinstance(value, list | tuple):
        said = (refused(one, kind, marks) for one in value)
        return next((one for one in said if one is not None), None)
    if isinstance(value, Path):
        address = re.sub(r":/?", "://", str(value), count=1) if _SCHEME.match(str(value)) else None
    elif isinstance(value, str):
        bad = any(place.refuses(value) for place in _places([*marks, *_marks(kind)]))
        address = value if bad else None
    else:
        return None
    if address is None:
        return None
    return f"{without_secrets(address)} is an address, which is not understood here; give a path"


def refused_in(model: BaseModel) -> tuple[str, str] | None:
    """The dotted key of the first field, at any depth, of which `refused` says something; that."""
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            inner = refused_in(value)
            if inner is not None:
                return f"{name}.{inner[0]}", inner[1]
        else:
            said = refused(value, field.annotation, field.metadata)
            if said is not None:
                return name, said
    return None


def with_absolute_paths(model: M) -> M:
    """The same model, in which every path is absolute, at any depth."""
    changes = {
        name: absolute(getattr(model, name), field.annotation, field.metadata)
        for name, field in type(model).model_fields.items()
    }
    return model.model_copy(update=changes)


def with_names_only(model: M) -> M:
    """The same model, in which only the last part of each path and address is left, at any depth.

    What is given to others does not say what this machine's folders are called.
    """
    changes: dict[str, Any] = {}
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            changes[name] = with_names_only(value)
        for place in _places([*field.metadata, *_marks(field.annotation)]):
            if isinstance(value, str) and not place.is_word(value):
                changes[name] = last_part(value)
            elif isinstance(value, tuple):
                changes[name] = tuple(v if place.is_word(v) else last_part(v) for v in value)
    return model.model_copy(update=changes)


def last_part(text: str) -> str:
    """The name of a place: the last part of a path or an address, without its query."""
    if is_local(text):
        return Path(os.path.abspath(text)).name or "/"  # noqa: PTH100  a link's own name
    scheme, mark, rest = text.partition("://")
    return rest.partition("?")[0].rstrip("/").rpartition("/")[2] if mark else scheme.split(":")[0]


def _marks(kind: Any) -> Iterator[Any]:
    for part in get_args(kind):
        yield part
        yield from _marks(part)


def _places(marks: Iterable[Any]) -> Iterator[Place]:
    return (mark for mark in marks if isinstance(mark, Place))
