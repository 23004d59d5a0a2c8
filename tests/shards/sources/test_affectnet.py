import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pattlite_dist.shards.sources.affectnet import AffectNet, matches, parse_expression
from pattlite_dist.shards.sources.registry import open_source
from tests.shards.sources.conftest import check_packings, images, read, refused, write_tree


def npy(value: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, value, **options)
    return stream.getvalue()


def content() -> dict[str, bytes]:
    names = ["train_set/images/2.jpg", "train_set/images/10.jpg", "val_set/images/2.jpg",
             "val_set/images/3.jpg"]  # fmt: skip
    annotations = {
        name.replace("images", "annotations").replace(".jpg", f"_{what}.npy"): npy(np.array(value))
        for name, label in zip(names, ["7", "2", "2", "8"], strict=True)
        for what, value in (("exp", label), ("val", "0.5"))
    }
    return {**images(names), **annotations}


def test_each_image_has_its_annotation_and_test_is_cut(tmp_path: Path) -> None:
    items = check_packings(AffectNet, tmp_path, content())
    source, _ = read(AffectNet, tmp_path / "tree")
    assert [((i.facts or {})["file"], source.labels[i.label], i.split) for i in items] == [
        ("train_set/images/2.jpg", "contempt", None), ("train_set/images/10.jpg", "sad", None),
        ("val_set/images/2.jpg", "sad", "val"),
    ]  # fmt: skip
    assert source.cut == ("test",)
    assert source.left_out == {"none": 1, "not in the table": 1}
    assert open_source(tmp_path / "tree").kind == "affectnet"


@pytest.mark.parametrize("value", ["3", b"3", 3, 3.0, np.int16(3), np.array(["3"])])
def test_an_expression_is_a_number_in_any_type(value: Any) -> None:
    assert parse_expression(npy(np.array(value))) == "3"
    big_endian = npy(np.array(3, ">i4"))
    assert parse_expression(big_endian) == "3"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"3",
        npy(np.array("3"))[:-1],
        npy(np.array(["3", "4"])),
        npy(np.array(3j)),
        npy(np.array([{"a": 1}], dtype=object), allow_pickle=True),
        npy(np.zeros(3000, "u1")),
        npy(np.array("3")).replace(b"()", b"(9000000000,)"),
    ],
)
def test_anything_else_is_refused_and_nothing_unpickled(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_expression(data)


def test_damage_anywhere_is_refused_or_changes_nothing_but_the_number() -> None:
    good, chance, refused_ = npy(np.array("3")), random.Random(1), 0
    for _ in range(500):
        data = bytearray(good)
        data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            parse_expression(bytes(data))
        except ValueError:
            refused_ += 1
    assert refused_ > 100


def test_a_bad_annotation_or_a_missing_image_is_named(tmp_path: Path) -> None:
    files = content()
    bad = {"train_set/annotations/2_exp.npy": npy(np.array("12"))}
    refused(
        lambda: read(AffectNet, write_tree(tmp_path / "a", files | bad)),
        "train_set/annotations/2_exp.npy", "'12' is not from 0 to 10",
    )  # fmt: skip
    del files["train_set/images/10.jpg"]
    refused(
        lambda: read(AffectNet, write_tree(tmp_path / "b", files)), "10_exp.npy", "no image",
    )  # fmt: skip


def test_what_matches_has_an_expression() -> None:
    assert matches(["annotations/0_exp.npy"]) and matches(["a/b/annotations/0_exp.npy"])
    assert not matches(["annotations/0_val.npy"])
