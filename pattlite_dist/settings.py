"""What the settings of every part are made of; each part's own lie beside it, in `settings.py`."""

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

T = TypeVar("T")


class Strict(BaseModel):
    """In which unknown keys are errors, and so are NaN and infinity."""

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
        free: whether it may change between two starts of one run. It may where it touches neither
            the order of the samples nor the network nor the optimiser's path.
        description: for the help.
        ge: the smallest value.
        gt: what the value is above.
        le: the largest value.
        lt: what the value is below.
        pattern: that the text matches.
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


def is_free(field: FieldInfo) -> bool:
    """What was passed to `setting`.

    Raises:
        TypeError: the field was not made by it.
    """
    extra = field.json_schema_extra
    if not isinstance(extra, dict) or "free" not in extra:
        raise TypeError("a key has to say whether it may change between two starts; use `setting`")
    return bool(extra["free"])
