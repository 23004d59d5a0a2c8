from pathlib import Path

import numpy as np
import pytest

from pattlite_dist.errors import UserError
from pattlite_dist.evaluation.origins import Origins, read_origins
from pattlite_dist.evaluation.predictions import pack_predictions
from pattlite_dist.shards.create import create_shards
from pattlite_dist.shards.manifest import load_manifest
from pattlite_dist.shards.sources.registry import open_source
from pattlite_dist.shards.verify import Folder
from tests.evaluation.samples import CLASSES, predictions
from tests.shards.sources.conftest import images, write_tree


def test_rows_are_those_of_the_shards_in_their_order(face_shards: Path) -> None:
    manifest = load_manifest(face_shards)
    found = read_origins(Folder(face_shards), manifest, "train")
    rows = found.rows.tolist()
    assert len(rows) == manifest.samples("train") and rows == sorted(set(rows))
    assert set(found.files.tolist()) == {""}
    assert found.where(np.array([2, 0])).names() == [f"row {rows[2]}", f"row {rows[0]}"]


def test_files_are_named_where_the_source_has_them(tmp_path: Path) -> None:
    names = [f"{s}/{c}/{i}.png" for s in ("train", "val") for c in ("a", "b") for i in range(2)]
    names += ["test/a/0.png"]
    create_shards(open_source(write_tree(tmp_path / "tree", images(names))), tmp_path / "set")
    found = read_origins(Folder(tmp_path / "set"), load_manifest(tmp_path / "set"), "val")
    assert found.files.tolist() == [name for name in names if name.startswith("val")]
    assert found.names() == ["0.png", "1.png", "0.png", "1.png"]


def test_they_are_in_the_file_of_predictions(tmp_path: Path) -> None:
    found = predictions(3)
    for files in (["", "", ""], ["a/1.png", "", "b/2.png"]):
        origins = Origins(np.array([4, 5, 9]), np.array(files, np.str_))
        (tmp_path / "p.npz").write_bytes(
            pack_predictions(CLASSES, {"test": found}, {"test": origins})
        )
        with np.load(tmp_path / "p.npz") as file:
            assert file["test.row"].tolist() == [4, 5, 9]
            assert file["test.file"].tolist() == files if any(files) else "test.file" not in file


def test_a_shard_that_is_not_the_manifests_is_refused(face_shards: Path, tmp_path: Path) -> None:
    (tmp_path / "val-000000.tar").write_bytes(b"short")
    with pytest.raises(UserError, match=r"val-000000\.tar has 5 bytes"):
        read_origins(Folder(tmp_path), load_manifest(face_shards), "val")
