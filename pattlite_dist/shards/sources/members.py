"""What the members of a WebDataset sample say: its image and its label. Nothing is unpickled."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from pattlite_dist.shards.sources.base import Reading
from pattlite_dist.shards.sources.spellings import is_image, shown
from pattlite_dist.shards.sources.tables import label_column, told

_LABELS = ("cls", "class", "label", "txt", "text")  # members, after JSON's the last two
_LONGEST = 1000  # characters of a label; captions are refused later, by their number


class Label(NamedTuple):
    """A label as text, and the name that JSON adds to a number; each empty if there is none."""

    text: str
    called: str = ""


def image_of(sample: Mapping[str, bytes], wanted: str | None) -> tuple[str, bytes]:
    """The suffix and content of a sample's image; empty if there is none.

    Args:
        sample: content by suffix, without webdataset's own keys.
        wanted: the suffix to take.

    Raises:
        ValueError: there are several images.
    """
    if wanted is not None:
        suffix = wanted.lower().lstrip(".")
        return suffix, sample.get(suffix, b"")
    found = [suffix for suffix in sample if is_image(f"image.{suffix}")]
    if len(found) > 1:
        raise ValueError(f"it has several images ({told(found)}): use --image-column")
    return (found[0], sample[found[0]]) if found else ("", b"")


def label_of(sample: Mapping[str, bytes], reading: Reading) -> Label:
    """The label: in a member for it, else in the JSON, else in the text.

    Args:
        sample: content by suffix.
        reading: its `label_column` is a suffix or a key of the JSON.

    Raises:
        ValueError: it is damaged, or several keys may be the label.
    """
    json_members = [suffix for suffix in sample if suffix.split(".")[-1] == "json"]
    wanted = reading.label_column
    if wanted is not None and (suffix := wanted.lower().lstrip(".")) in sample:
        return Label(_text(sample[suffix], suffix))
    called = _in_json(sample[json_members[0]], wanted) if json_members else ""
    if wanted is not None:
        return Label(called)
    for kind in _LABELS:
        found = [suffix for suffix in sample if suffix.split(".")[-1] == kind]
        if kind == "txt" and called:
            break
        if found:
            return Label(_text(sample[found[0]], found[0]), called)
    return Label(called)


def _text(data: bytes, suffix: str) -> str:
    try:
        text = data[: 4 * _LONGEST].decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"its .{suffix} is not text ({error.reason})") from error
    return text[:_LONGEST]


def _in_json(data: bytes, wanted: str | None) -> str:
    try:
        facts = json.loads(data)
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0][:80]
        raise ValueError(f"its JSON is damaged ({shown(reason)})") from error
    if not isinstance(facts, dict):
        return ""
    key = label_column(list(facts), wanted)
    return "" if key is None else _value(facts[key], key)


def _value(value: Any, key: str) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError(f"its {shown(key)!r} is neither text nor a number")
    return str(value).strip()[:_LONGEST]
