"""The cartoon faces: reproducible, readable as FER2013, and flawed as it is."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pattlite_dist.errors import UserError
from pattlite_dist.shards.faces import draw_face, write_faces
from pattlite_dist.shards.manifest import SPLIT_NAMES
from pattlite_dist.shards.sources.fer2013 import FER2013_LABELS
from pattlite_dist.shards.sources.registry import open_source
from tests.sources import Row, read_rows


def faces(folder: Path, train: int, val: int, test: int, seed: int = 0) -> dict[str, list[Row]]:
    path = folder / "fer2013.csv"
    write_faces(path, train, val, test, seed)
    rows = list(read_rows(open_source(path)))
    assert [row.split for row in rows] == ["train"] * train + ["val"] * val + ["test"] * test
    return {split: [row for row in rows if row.split == split] for split in SPLIT_NAMES}


def keys(rows: list[Row]) -> set[tuple[int, bytes]]:
    return {(row.label, row.image.tobytes()) for row in rows if row.image.any()}


@pytest.mark.parametrize("label", range(len(FER2013_LABELS)))
def test_a_face_is_a_function_of_its_arguments(label):
    face = draw_face(label, 3, 5)
    assert face.shape == (48, 48) and face.dtype == np.uint8
    assert face.std() > 10
    np.testing.assert_array_equal(face, draw_face(label, 3, 5))
    others = (draw_face(label, 4, 5), draw_face(label, 3, 6), draw_face((label + 1) % 7, 3, 5))
    assert not any(np.array_equal(face, other) for other in others)


def test_the_label_changes_nothing_but_the_expression():
    neutral, happy = (draw_face(label, 0, 0) for label in (6, 3))
    np.testing.assert_array_equal(neutral[:4], happy[:4])  # the background gives nothing away
    assert not np.array_equal(neutral, happy)


def test_the_set_has_the_flaws_of_the_real_one(tmp_path):
    rows = faces(tmp_path, 50, 20, 20)
    assert [sum(not row.image.any() for row in rows[split]) for split in SPLIT_NAMES] == [2, 1, 0]
    train, val, test = (keys(rows[split]) for split in SPLIT_NAMES)
    assert (len(train), len(val), len(test)) == (48, 19, 20)  # no copies inside a split
    assert (len(train & val), len(train & test), len(val & test)) == (3, 3, 0)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (49, 20, 20), (50, 19, 19)])
def test_small_sets_lack_room_for_flaws(tmp_path, sizes):
    rows = faces(tmp_path, *sizes)
    train, val, test = (keys(rows[split]) for split in SPLIT_NAMES)
    assert len(train) == sizes[0] - (2 if sizes[0] >= 50 else 0)
    assert len(train | val | test) == len(train) + sizes[1] + sizes[2]


def test_flaws_keep_their_number_whatever_the_size(tmp_path):
    for sizes in ((57, 23, 41), (120, 20, 31), (83, 64, 20)):
        rows = faces(tmp_path, *sizes)
        train, val, test = (keys(rows[split]) for split in SPLIT_NAMES)
        assert (len(train), len(val), len(test)) == (sizes[0] - 2, sizes[1] - 1, sizes[2])
        assert (len(train & val), len(train & test), len(val & test)) == (3, 3, 0)


def test_labels_are_balanced_and_shuffled(tmp_path):
    labels = [row.label for row in faces(tmp_path, 70, 1, 1)["train"]]
    assert Counter(labels) == dict.fromkeys(range(7), 10)
    assert labels != sorted(labels) and labels[:7] != labels[7:14]


def test_the_seed_chooses_the_set(tmp_path):
    first, again, other = (tmp_path / name for name in ("a.csv", "b.csv", "c.csv"))
    for path, seed in ((first, 0), (again, 0), (other, 1)):
        write_faces(path, 8, 2, 2, seed)
    assert first.read_bytes() == again.read_bytes() != other.read_bytes()


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, 0, 1), (1, 1, 0), (-5, 1, 1)])
def test_bad_counts_are_the_users_to_mend(tmp_path, sizes):
    with pytest.raises(UserError, match="counts must be 1 or more"):
        write_faces(tmp_path / "fer2013.csv", *sizes)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_bad_seeds_are_the_users_to_mend(tmp_path, seed):
    with pytest.raises(UserError, match="it must be from 0"):
        write_faces(tmp_path / "fer2013.csv", 1, 1, 1, seed)
    assert not list(tmp_path.iterdir())
