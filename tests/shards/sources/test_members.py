import json
from typing import Any

import pytest

from pattlite_dist.shards.sources.base import Reading
from pattlite_dist.shards.sources.members import Label, image_of, label_of


def label(sample: dict[str, bytes], wanted: str | None = None) -> Label:
    return label_of(sample, Reading(label_column=wanted))


def as_json(**facts: Any) -> bytes:
    return json.dumps(facts).encode()


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "input.jpeg"])
def test_the_image_is_the_only_member_that_is_one(suffix: str) -> None:
    assert image_of({"cls": b"1", suffix: b"x", "pyd": b"y"}, None) == (suffix, b"x")
    assert image_of({"cls": b"1"}, None) == ("", b"")


def test_of_several_images_one_must_be_named() -> None:
    sample = {"seg.png": b"y", "jpg": b"x"}
    with pytest.raises(ValueError, match=r"several images \(seg.png, jpg\).*--image-column"):
        image_of(sample, None)
    for name in ("jpg", ".JPG"):
        assert image_of(sample, name) == ("jpg", b"x")
    assert image_of(sample, "webp") == ("webp", b"")


@pytest.mark.parametrize(
    ("sample", "found"),
    [
        ({"cls": b"3\n"}, ("3", "")),
        ({"emotion.cls": b"3"}, ("3", "")),
        ({"cls": b"3", "json": as_json(label="sad")}, ("3", "sad")),
        ({"json": as_json(label=3, key="1")}, ("3", "")),
        ({"json": as_json(caption="x", Emotion="sad"), "txt": b"a photo"}, ("sad", "")),
        ({"txt": b" sad\n"}, ("sad", "")),
        ({"txt": b"sad", "json": as_json(url="x")}, ("sad", "")),
        ({"json": as_json(label=None)}, ("", "")),
        ({"json": b"[1]"}, ("", "")),
        ({"pyd": b"cos\nsystem\n(S'false'\ntR."}, ("", "")),
        ({}, ("", "")),
    ],
)
def test_the_label_is_in_cls_json_or_txt(sample: dict[str, bytes], found: Any) -> None:
    assert label(sample) == found


def test_the_label_may_be_named() -> None:
    sample = {"cls": b"3", "mood.txt": b"sad", "json": as_json(feeling="happy", label="x")}
    assert label(sample, "mood.txt") == ("sad", "")
    assert label(sample, "feeling") == ("happy", "")
    assert label(sample, "other") == ("", "")


@pytest.mark.parametrize(
    ("sample", "what"),
    [
        ({"json": b"{"}, "its JSON is damaged"),
        ({"json": b"[" * 100_000}, "its JSON is damaged"),
        ({"json": as_json(label=[0, 1])}, "neither text nor a number"),
        ({"json": as_json(label=0.5)}, "neither text nor a number"),
        ({"json": as_json(label="a", emotion="b")}, "label, emotion"),
        ({"cls": b"\xff"}, "its .cls is not text"),
    ],
)
def test_a_damaged_label_is_an_error(sample: dict[str, bytes], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        label(sample)
