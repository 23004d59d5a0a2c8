"""The basis of every part's settings, which are in the `settings.py` of the part."""

from typing import Any, TypeGuard, TypeVar, get_origin

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

T = TypeVar("T")


class Strict(BaseModel):
    """Unknown keys are errors, and so are NaN and infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def setting(
    default: T,
    *,
    free: bool,
    description: str | None = None,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    pattern: str | None = None,
) -> T:
    """A key of the configuration.

    Args:
        default: of the key.
        free: whether it may change between two starts of one run: if it affects neither the order
            of the samples nor the network nor the optimiser's path.
        description: shown in the help.
        ge: lower bound.
        gt: lower bound, exclusive.
        le: upper bound.
        lt: upper bound, exclusive.
        pattern: that the text must match.
    """
    field: T = Field(
        default,
        description=description,
        ge=ge,
        gt=gt,
        le=le,
        lt=lt,
        pattern=pattern,
        json_schema_extra={"free": free},
    )
    return field


def is_a(kind: Any, base: type[T]) -> TypeGuard[type[T]]:
    """Whether a type is a class below `base`.

    On Python 3.10, `tuple[int, int]` passes for a class too, until `issubclass` is asked.
    """
    return get_origin(kind) is None and isinstance(kind, type) and issubclass(kind, base)


def is_free(field: FieldInfo) -> bool:
    """What was passed to `setting`.

    Raises:
        TypeError: the field was not made by it.
    """
    extra = field.json_schema_extra
    if not isinstance(extra, dict) or "free" not in extra:
        raise TypeError("a key must state whether it may change between two starts; use `setting`")
    return bool(extra["free"])
