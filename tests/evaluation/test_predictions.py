import hashlib
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pattlite_dist.errors import UserError
from pattlite_dist.evaluation.predictions import Predictions, load_predictions, pack_predictions
from tests.evaluation.samples import CLASSES, predictions


def write(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def assert_same(one: Predictions, other: Predictions) -> None:
    for name in ("ids", "labels", "flags", "target"):
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None)
        assert a is None or (a.dtype == b.dtype and np.array_equal(a, b)), name
    assert one.probabilities.keys() == other.probabilities.keys()
    for view, table in one.probabilities.items():
        assert np.array_equal(table, other.probabilities[view])


@pytest.mark.parametrize("soft", [False, True])
def test_what_is_packed_is_read_again_bit_for_bit(tmp_path: Path, soft: bool) -> None:
    splits = {
        "val": predictions(11, 1, ("one", "flip"), soft),
        "test": predictions(40, 2, ("one", "flip"), soft),
    }
    path = tmp_path / "predictions.npz"
    sha256 = write(path, pack_predictions(CLASSES, splits))  # type: ignore[arg-type]
    again = load_predictions(path, sha256, ["one", "flip"])
    assert list(again) == ["val", "test"]
    for split in again:
        assert_same(splits[split], again[split])


def test_the_same_predictions_are_the_same_bytes() -> None:
    assert pack_predictions(CLASSES, {"test": predictions(9)}) == pack_predictions(
        CLASSES, {"test": predictions(9)}
    )


def test_numpy_alone_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    found = predictions(12)
    write(path, pack_predictions(CLASSES, {"test": found}))
    with np.load(path) as file:  # numpy's default: no pickles
        assert file["classes"].tolist() == CLASSES
        assert file["test.leak"].tolist() == [i % 5 == 0 for i in range(12)]
        assert file["test.blank"].tolist() == [i % 7 == 0 for i in range(12)]
        assert np.array_equal(file["test.one"], found.probabilities["one"])


def test_what_is_not_the_evaluations_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    data = pack_predictions(CLASSES, {"test": predictions(9)})
    sha256 = write(path, data)
    with pytest.raises(UserError, match="No such file"):
        load_predictions(tmp_path / "none.npz", sha256, ["one"])
    write(path, data[:-40])
    with pytest.raises(UserError, match=r"not the file that evaluation\.json was"):
        load_predictions(path, sha256, ["one"])
    for content in (b"", b"PK", data[:-40], b"\x93NUMPY"):
        with pytest.raises(UserError, match="holds no predictions"):
            load_predictions(path, write(path, content), ["one"])
    with pytest.raises(UserError, match="holds no predictions"):
        load_predictions(path, write(path, data), ["flip"])


def test_a_pickle_in_it_is_not_run(tmp_path: Path) -> None:
    path, victim = tmp_path / "p.npz", tmp_path / "touched"

    class Code:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return Path.touch, (victim,)

    with zipfile.ZipFile(path, "w") as file, file.open("test.id.npy", "w") as member:
        np.lib.format.write_array(member, np.array([Code()], object), allow_pickle=True)
    with pytest.raises(UserError, match="holds no predictions"):
        load_predictions(path, hashlib.sha256(path.read_bytes()).hexdigest(), ["one"])
    assert not victim.exists()


def test_clean_leaves_out_the_leaks_and_nothing_else() -> None:
    found = predictions(23, soft=True)
    clean = found.clean()
    assert clean.ids.tolist() == [i for i in range(23) if i % 5]
    assert np.array_equal(clean.labels, found.labels[clean.ids])
    assert clean.target is not None and found.target is not None
    assert np.array_equal(clean.target, found.target[clean.ids])
