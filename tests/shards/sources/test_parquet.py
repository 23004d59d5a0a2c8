"""With pyarrow, which is an extra; without it, see test_labeltables.py."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from pattlite_dist.shards.create import create_shards
from pattlite_dist.shards.sources.base import Reading, Source
from pattlite_dist.shards.sources.labeltables import LabelTable
from pattlite_dist.shards.sources.parquet import matches
from pattlite_dist.shards.sources.registry import open_source
from tests.shards.sources.conftest import encoded, images, read, refused, write_tree, write_zip

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def packed(columns: dict[str, list[Any]], names: list[str] | None = None) -> bytes:
    """A file as `datasets` writes it, with the names of a ClassLabel `label`."""
    table = pyarrow.table(columns)
    if names:
        features = {"label": {"names": names, "_type": "ClassLabel"}, "image": {"_type": "Image"}}
        told = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
        table = table.replace_schema_metadata(told)
    stream = io.BytesIO()
    parquet.write_table(table, stream)
    return stream.getvalue()


def rows(labels: list[Any], seed: int = 0) -> dict[str, list[Any]]:
    faces = [{"bytes": encoded(seed + i), "path": f"{i}.png"} for i in range(len(labels))]
    return {"image": faces, "label": labels}


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    names = ["angry", "cat", "Happiness"]
    return write_tree(
        tmp_path / "fer",
        {
            "data/train-00000-of-00002.parquet": packed(rows([2, 1]), names),
            "data/train-00001-of-00002.parquet": packed(rows([0, 2], 2), names),
            "data/test-00000-of-00001.parquet": packed(rows([1], 4), names),
            "README.md": b"---\nlicense: mit\n---\n",
        },
    )


def told(source: Source) -> list[tuple[str, str, str | None]]:
    return [((i.facts or {})["file"], source.labels[i.label], i.split) for i in source.items()]


def test_images_classes_and_splits_come_from_the_hubs_files(hub: Path) -> None:
    source = open_source(hub)
    assert source.kind == "hub-parquet" and source.cut == ("val",)
    assert source.name == "Parquet (images: image, labels: label)"
    assert told(source) == [
        ("test-00000-of-00001.parquet/0", "cat", "test"),
        ("train-00000-of-00002.parquet/0", "happy", None),
        ("train-00000-of-00002.parquet/1", "cat", None),
        ("train-00001-of-00002.parquet/0", "angry", None),
        ("train-00001-of-00002.parquet/1", "happy", None),
    ]
    first, *_ = source.items()
    assert source.decode(first)[0].shape == (1, 48, 48) and len(source.sha256) == 64
    one = open_source(hub / "data/train-00000-of-00002.parquet")
    assert [name for _, name, _ in told(one)] == ["happy", "cat"]


def test_a_set_is_created_from_them(hub: Path, tmp_path: Path) -> None:
    more = packed(rows([0, 1, 2] * 5, 9), ["angry", "cat", "Happiness"])
    (hub / "data/train-00000-of-00002.parquet").write_bytes(more)
    manifest = create_shards(open_source(hub), tmp_path / "out")
    assert manifest.labels == ["angry", "cat", "happy"] and manifest.samples("test") == 1


def test_labels_may_be_words_and_splits_a_column(tmp_path: Path) -> None:
    columns = rows(["sad", "cat", "sad", None])
    columns["split"] = ["train", "train", "test", "test"]
    path = tmp_path / "a.parquet"
    path.write_bytes(packed(columns))
    refused(lambda: open_source(path), "a.parquet, row 3", "no label")
    source = open_source(path, Reading(unlabelled="skip"))
    assert [(name, split) for _, name, split in told(source)] == [
        ("sad", None), ("cat", None), ("sad", "test"),
    ]  # fmt: skip
    assert source.left_out == {"no label": 1} and source.name.endswith("splits: split)")
    columns["split"][0] = "third"
    path.write_bytes(packed(columns))
    refused(lambda: open_source(path), "row 0", "'third' is not a split")


def test_what_is_no_such_file_is_refused(tmp_path: Path) -> None:
    for name, data, what in (
        ("a", b"text", "is not Parquet, or is damaged"),
        ("b", packed({"image": [{"bytes": b"x"}], "text": ["a"]}), "no known column of labels"),
        ("c", packed(rows([0, 1])), "numbers (0, 1)"),
        ("d", packed({"image": [{"path": "x"}] * 2, "label": ["a", "b"]}), "no labelled images"),
    ):
        path = write_tree(tmp_path / name, {"data/train.parquet": data})
        refused(lambda path=path: open_source(path), "train.parquet", what)  # type: ignore[misc]
    path = write_zip(tmp_path / "a.zip", {"data/train.parquet": packed(rows(["a", "b"]))})
    refused(lambda: open_source(path), "unpack the zip")


def test_a_parquet_table_of_names_lists_images(tmp_path: Path) -> None:
    table = packed({"image": ["0.png", "1.png"], "label": ["sad", "happy"], "usage": ["train"] * 2})
    path = write_tree(tmp_path, {**images(["0.png", "1.png"]), "labels.parquet": table})
    for source in (read(LabelTable, path)[0], open_source(path / "labels.parquet")):
        assert source.kind == "label-table" and [n for _, n, _ in told(source)] == ["sad", "happy"]
        assert source.name == "labels.parquet (images: image, labels: label, splits: usage)"
    table = packed({"image": ["0.png", "7.png"], "label": ["sad", "happy"]})
    (path / "labels.parquet").write_bytes(table)
    refused(lambda: open_source(path), "labels.parquet, row 1", "no image '7.png'")


def test_what_matches_has_parquet_and_nothing_that_it_could_be_a_table_of() -> None:
    assert matches(["data/train.parquet", "README.md"])
    assert not matches(["a.parquet", "1.png"]) and not matches(["0.tar", "0.parquet"])
