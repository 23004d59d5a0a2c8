"""Images that cannot be decoded: named all at once, or left out and counted."""

import itertools
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pattlite_dist.cli import main
from pattlite_dist.errors import UserError
from pattlite_dist.shards import create
from pattlite_dist.shards.create import create_shards
from pattlite_dist.shards.manifest import ImageInfo, Options, load_manifest
from pattlite_dist.shards.sources.base import Reading
from pattlite_dist.shards.sources.registry import open_source
from pattlite_dist.shards.spool import Spool, first_lines
from pattlite_dist.shards.stats import set_table
from pattlite_dist.shards.verify import verify_shards
from tests.shards.conftest import face, snapshot, write_csv
from tests.shards.sources.conftest import encoded, images, picture, write_tree, write_zip
from tests.shards.test_writer import members

NAMES = itertools.product(("train", "val", "test"), ("cat", "dog"), "012")
GOOD = {
    f"{split}/{name}/{number}.png": encoded(picture(seed, size=(8, 8)))
    for seed, (split, name, number) in enumerate(NAMES)
}
BAD = {"train/cat/0a.png": b"text", "test/dog/0.png": encoded(picture(1, size=(8, 8)))[:40],
       "val/cat/9.jpg": b""}  # fmt: skip
SKIP = Reading(damaged="skip")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "tree", {**GOOD, **BAD})


def made(tree: Path, out: Path, per_shard: int = 2) -> list[str]:
    """Create a set without the damaged images; returns what is said."""
    said: list[str] = []
    options = Options(reading=SKIP.words())
    create_shards(
        open_source(tree, SKIP), out, samples_per_shard=per_shard, options=options, say=said.append
    )
    return said


def test_all_damaged_images_are_named_and_nothing_is_left(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["shards", "create", str(tree), str(tmp_path / "out"), "--jobs=1"]) == 2
    *named, error = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[:2] for line in named] == [
        ["pattlite", str(tree / name)] for name in sorted(BAD)
    ]
    assert error.startswith("pattlite: error: 3 of 20 images of folder are damaged, the first of ")
    assert error.endswith("; replace them, or leave them out with --damaged skip")
    assert not (tmp_path / "out").exists()


def test_the_only_damaged_image_is_named_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = write_tree(tmp_path / "tree", {**GOOD, "val/dog/7.png": b"text"})
    assert main(["shards", "create", str(tree), str(tmp_path / "out"), "--jobs=1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "7.png: it is not an image" in line
    assert line.endswith("replace it, or leave it out with --damaged skip")


def test_only_the_first_of_many_are_named() -> None:
    lines = first_lines([f"{number}.png: it is bad; remove it" for number in range(1234)])
    assert lines[0] == "0.png: it is bad"
    assert lines[9:] == ["9.png: it is bad", "and 1,224 more"]


def test_they_are_left_out_counted_and_told(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["shards", "create", str(tree), str(out), "--jobs=1", "--damaged", "skip"]
    assert main([*words, "--samples-per-shard=2"]) == 0
    told = capsys.readouterr().out
    for name in BAD:
        assert f"left out, damaged: {tree / name}: it is" in told
    manifest = load_manifest(out)
    assert manifest.source.left_out == {"damaged": 3}
    assert manifest.source.rows == len(GOOD) - 1
    assert manifest.options.reading == {"damaged": "skip"}
    assert set_table(manifest)[-1] == ["damaged", *[""] * 6, "3", ""]
    assert verify_shards(out) == (manifest, [])
    made(tree, tmp_path / "again")
    assert snapshot(tmp_path / "again") == snapshot(out)


def test_the_others_are_where_they_would_be_without_them(tree: Path, tmp_path: Path) -> None:
    made(tree, tmp_path / "out", 99)
    clean = {**GOOD}
    del clean["test/dog/0.png"]
    made(write_tree(tmp_path / "clean", clean), tmp_path / "other", 99)
    for split in ("train", "val", "test"):
        name = f"{split}-000000.tar"
        found, expected = (members(tmp_path / each / name) for each in ("out", "other"))
        pngs = [[d for n, d in each.items() if n.endswith("png")] for each in (found, expected)]
        assert pngs[0] == pngs[1]
        assert [n for n in found if n.endswith("cls")] != [] and len(found) == len(expected)


def test_a_killed_conversion_goes_on_without_them(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(tree, tmp_path / "whole")

    def full(*_: object) -> None:
        raise UserError("full; fix it")

    with monkeypatch.context() as patch:
        patch.setattr(create, "_write", full)
        with pytest.raises(UserError, match="full"):
            made(tree, tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(create.reading, "fill", full)  # the source is not read again
        made(tree, tmp_path / "out")
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "whole")


def test_a_set_without_them_is_repaired(tree: Path, tmp_path: Path) -> None:
    made(tree, tmp_path / "out")
    before = snapshot(tmp_path / "out")
    (tmp_path / "out" / "val-000001.tar").write_bytes(b"")
    assert main(["shards", "verify", str(tmp_path / "out"), "--repair", str(tree), "--jobs=1"]) == 0
    assert snapshot(tmp_path / "out") == before


def test_a_class_of_nothing_else_is_refused(tmp_path: Path) -> None:
    content = images(["cat/1.png", "cat/2.png", "cat/3.png"]) | {
        "dog/1.png": b"",
        "dog/2.png": b"?",
    }
    with pytest.raises(UserError, match="all 2 images of the class dog are damaged; replace"):
        made(write_tree(tmp_path / "tree", content), tmp_path / "out")


def test_a_member_of_a_zip_with_a_wrong_checksum_is_one(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {**GOOD, "train/cat/x.png": b"MARK" + bytes(99)})
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        begin = archive.getinfo("train/cat/x.png").header_offset + 30 + len("train/cat/x.png")
    path.write_bytes(data[:begin] + bytes([data[begin] ^ 255]) + data[begin + 1 :])
    said = made(path, tmp_path / "out")
    assert [line for line in said if "member train/cat/x.png: it is damaged" in line]
    assert load_manifest(tmp_path / "out").source.left_out == {"damaged": 1}


def test_a_row_of_a_csv_with_bad_pixels_is_one(tmp_path: Path) -> None:
    usages = ["Training", "Training", "PublicTest", "PrivateTest"]
    rows = [face(i % 2, usage, i) for i, usage in enumerate(usages)]
    rows.insert(1, face(0)._replace(pixels="1 2 3"))
    source = open_source(write_csv(tmp_path / "fer2013.csv", rows), SKIP)
    options = Options(reading=SKIP.words())
    manifest = create_shards(source, tmp_path / "out", options=options)
    assert manifest.source.left_out == {"damaged": 1}
    keys = [name[:8] for name in members(tmp_path / "out" / "train-000000.tar") if "cls" in name]
    assert keys == ["00000000", "00000002"]


def test_what_the_user_chose_to_refuse_is_not_skipped(tmp_path: Path) -> None:
    content = {**GOOD, "train/cat/7.png": encoded(picture(1))}
    source = open_source(
        write_tree(tmp_path / "tree", content), Reading(damaged="skip", other_images="refuse")
    )
    with pytest.raises(UserError, match=r"7\.png: it is L 48x48, but the set is L 8x8"):
        create_shards(source, tmp_path / "out")


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_images_lie_between_the_holes(
    tmp_path_factory: pytest.TempPathFactory, good: list[bool]
) -> None:
    path = tmp_path_factory.mktemp("spool") / "pixels.raw"
    path.write_bytes(bytes(range(len(good))))
    holes = tuple(place for place, fine in enumerate(good) if not fine)
    spool = Spool(path, ImageInfo(channels=1, height=1, width=1), holes)
    places = [place for place, fine in enumerate(good) if fine]
    assert spool.read(np.arange(len(places))).reshape(-1).tolist() == places
    assert spool.read(np.arange(len(places))[::-1]).reshape(-1).tolist() == places[::-1]
