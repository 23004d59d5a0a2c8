import errno
import hashlib
import io
import itertools
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from PIL import Image

from pattlite_dist.errors import UserError
from pattlite_dist.shards import writer
from pattlite_dist.shards.manifest import SPLIT_NAMES, load_manifest
from pattlite_dist.shards.sources import FER2013_LABELS, Fer2013Csv, Row, open_source
from pattlite_dist.shards.survey import is_blank
from pattlite_dist.shards.tario import decode_png
from pattlite_dist.shards.verify import verify_shards
from pattlite_dist.shards.writer import create_shards, encode_png
from tests.shards.conftest import (
    LEAKS,
    TEST_COUNTS,
    TINY_PER_SHARD,
    TINY_SHARDS,
    TRAIN_BLANKS,
    TRAIN_COUNTS,
    VAL_BLANKS,
    VAL_COUNTS,
    CsvRow,
    csv_text,
    face,
    pack,
    pixel_text,
    random_image,
    snapshot,
    tiny_images,
    tiny_rows,
    write_csv,
)

Members = dict[str, bytes]


def members(path: Path) -> Members:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def facts(folder: Path, split: str) -> list[dict[str, Any]]:
    return [
        json.loads(data)
        for path in sorted(folder.glob(f"{split}-*.tar"))
        for name, data in members(path).items()
        if name.endswith(".json")
    ]


def kept(split: str) -> list[int]:
    places = {"train": range(24), "val": range(24, 32), "test": range(32, 40)}[split]
    return [row for row in places if row not in TRAIN_BLANKS]


def test_the_folder_holds_the_shards_and_the_manifest_and_nothing_else(tiny_shards: Path) -> None:
    assert {path.name for path in tiny_shards.iterdir()} == {*TINY_SHARDS, "manifest.json"}


def test_shards_are_filled_in_turn_and_the_last_takes_the_rest(tiny_shards: Path) -> None:
    manifest = load_manifest(tiny_shards)
    found = [shard for shards in manifest.shards.values() for shard in shards]
    assert {shard.name: shard.samples for shard in found} == TINY_SHARDS
    for name, samples in TINY_SHARDS.items():
        assert len(members(tiny_shards / name)) == 3 * samples


def test_a_split_that_fills_its_shards_gets_no_empty_one(tiny_csv: Path, tmp_path: Path) -> None:
    manifest = create_shards(open_source(tiny_csv), tmp_path / "out", samples_per_shard=4)
    assert [shard.samples for shard in manifest.shards["val"]] == [4, 4]
    assert [shard.samples for shard in manifest.shards["train"]] == [4, 4, 4, 4, 4, 2]


def test_blank_rows_are_left_out_of_train_only(tiny_shards: Path) -> None:
    assert [fact["row"] for fact in facts(tiny_shards, "train")] == kept("train")
    assert [fact["row"] for fact in facts(tiny_shards, "val")] == kept("val")
    assert [fact["row"] for fact in facts(tiny_shards, "test")] == kept("test")
    for split in ("train", "val", "test"):
        flagged = [fact["row"] for fact in facts(tiny_shards, split) if fact["blank"]]
        assert flagged == (VAL_BLANKS if split == "val" else [])


def test_leaks_are_flagged_in_val_and_test_only(tiny_shards: Path) -> None:
    leaks = [
        fact["row"]
        for split in ("train", "val", "test")
        for fact in facts(tiny_shards, split)
        if fact["leak"]
    ]
    assert leaks == list(LEAKS)


def test_a_leak_is_found_whatever_the_order_and_only_against_train(tmp_path: Path) -> None:
    rows = [
        face(0, "PublicTest", seed=1),  # its image comes again in train, later
        face(1, "PrivateTest", seed=2),  # these two repeat each other, and train has neither
        face(2, "PublicTest", seed=2),
        face(3, "Training", seed=1),
        face(4, "Training", seed=3),
        face(4, "Training", seed=3),  # within train nothing leaks
    ]
    source = open_source(write_csv(tmp_path / "fer2013.csv", rows))
    manifest = create_shards(source, tmp_path / "out")
    found = {
        split: [f["leak"] for f in facts(tmp_path / "out", split)] for split in ("val", "test")
    }
    assert found == {"val": [True, False], "test": [False]}
    assert not any(fact["leak"] for fact in facts(tmp_path / "out", "train"))
    assert {split: known.leaks for split, known in manifest.findings.items()} == {
        "train": 0,
        "val": 1,
        "test": 0,
    }


def test_the_findings_name_the_rows(tiny_shards: Path) -> None:
    findings = load_manifest(tiny_shards).model_dump()["findings"]
    assert findings == {
        "train": {"blank_rows": TRAIN_BLANKS, "dropped_rows": TRAIN_BLANKS, "leaks": 0},
        "val": {"blank_rows": VAL_BLANKS, "dropped_rows": [], "leaks": 1},
        "test": {"blank_rows": [], "dropped_rows": [], "leaks": 2},
    }


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_sample_is_three_members_with_the_facts_of_its_row(tiny_shards: Path, split: str) -> None:
    images, rows = tiny_images(), tiny_rows()
    found: Members = {}
    for path in sorted(tiny_shards.glob(f"{split}-*.tar")):
        found |= members(path)
    keys = [f"{row:08d}" for row in kept(split)]
    assert list(found) == [f"{key}.{kind}" for key in keys for kind in ("png", "cls", "json")]
    for key in keys:
        row = int(key)
        assert found[f"{key}.cls"] == rows[row].emotion.encode()
        fact = json.loads(found[f"{key}.json"])
        assert fact == {
            "row": row,
            "split": split,
            "label": FER2013_LABELS[int(rows[row].emotion)],
            "blank": row in VAL_BLANKS,
            "leak": row in LEAKS,
        }
        assert type(fact["blank"]) is bool and type(fact["leak"]) is bool
        with Image.open(io.BytesIO(found[f"{key}.png"])) as picture:
            assert (picture.format, picture.mode, picture.size) == ("PNG", "L", (48, 48))
            np.testing.assert_array_equal(np.asarray(picture), images[row][0], strict=True)


def test_members_carry_nothing_of_who_wrote_them_and_when(tiny_shards: Path) -> None:
    for name in TINY_SHARDS:
        with tarfile.open(tiny_shards / name) as tar:
            for member in tar:
                assert (member.mtime, member.uid, member.gid) == (0, 0, 0)
                assert (member.uname, member.gname, member.mode) == ("", "", 0o644)


def test_the_manifest_tells_what_lies_on_the_disk(tiny_shards: Path, tiny_csv: Path) -> None:
    manifest = load_manifest(tiny_shards)
    for split, shards in manifest.shards.items():
        assert [shard.name for shard in shards] == [
            name for name in TINY_SHARDS if name.startswith(f"{split}-")
        ]
        for shard in shards:
            data = (tiny_shards / shard.name).read_bytes()
            assert (shard.bytes, shard.sha256) == (len(data), hashlib.sha256(data).hexdigest())
            found = members(tiny_shards / shard.name)
            labels = [int(text) for name, text in found.items() if name.endswith(".cls")]
            assert shard.class_counts == [labels.count(label) for label in range(7)]
    assert manifest.class_counts("train") == TRAIN_COUNTS
    assert manifest.class_counts("val") == VAL_COUNTS
    assert manifest.class_counts("test") == TEST_COUNTS
    assert [manifest.samples(split) for split in SPLIT_NAMES] == [22, 8, 8]
    assert manifest.source.model_dump() == {
        "kind": "fer2013-csv",
        "name": "fer2013.csv",
        "sha256": hashlib.sha256(tiny_csv.read_bytes()).hexdigest(),
        "rows": 40,
    }
    assert manifest.labels == list(FER2013_LABELS)
    assert manifest.image.shape == (1, 48, 48)
    assert manifest.samples_per_shard == TINY_PER_SHARD


def test_what_create_returns_is_what_it_saved(tiny_csv: Path, tmp_path: Path) -> None:
    manifest = create_shards(open_source(tiny_csv), tmp_path / "out")
    assert manifest == load_manifest(tmp_path / "out")


@pytest.mark.parametrize("name", ["fer2013.csv", "fer2013.csv.xz", "other-name.zip"])
def test_the_same_rows_give_the_same_bytes(tiny_shards: Path, tmp_path: Path, name: str) -> None:
    source = open_source(write_csv(tmp_path / name, tiny_rows()))
    create_shards(source, tmp_path / "out", samples_per_shard=TINY_PER_SHARD)
    assert snapshot(tmp_path / "out") == snapshot(tiny_shards)


def test_the_size_of_a_shard_does_not_change_the_samples(
    tiny_csv: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    create_shards(open_source(tiny_csv), tmp_path / "out", samples_per_shard=100)
    one = members(tmp_path / "out" / "train-000000.tar")
    three: Members = {}
    for index in range(3):
        three |= members(tiny_shards / f"train-{index:06d}.tar")
    assert list(one.items()) == list(three.items())


# WebDataset leaves the closing of its files to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.parametrize(
    ("split", "url"),
    [
        ("train", "train-{000000..000002}.tar"),
        ("val", "val-000000.tar"),
        ("test", "test-000000.tar"),
    ],
)
def test_webdataset_itself_reads_the_shards(tiny_shards: Path, split: str, url: str) -> None:
    dataset = webdataset.WebDataset(str(tiny_shards / url), shardshuffle=False).decode("l8")
    samples = list(dataset)
    rows, images = tiny_rows(), tiny_images()
    assert [sample["__key__"] for sample in samples] == [f"{row:08d}" for row in kept(split)]
    for sample in samples:
        row = sample["json"]["row"]
        assert sample["png"].dtype == np.uint8
        np.testing.assert_array_equal(sample["png"], images[row][0], strict=True)
        assert sample["cls"] == int(rows[row].emotion)


class Stub:
    """A source of another shape, as one that another data set would have."""

    kind = "stub"
    name = "stub"
    labels: tuple[str, ...] = ("cat", "dog")
    shape = (3, 6, 8)
    sha256 = "0" * 64

    def rows(self) -> Iterator[Row]:
        chance = np.random.default_rng(0)
        for index, split in enumerate(["train", "train", "val"]):
            yield Row(index, index % 2, split, chance.integers(0, 256, self.shape, dtype=np.uint8))


def test_a_source_of_colour_images_and_without_a_split_is_written_too(tmp_path: Path) -> None:
    manifest = create_shards(Stub(), tmp_path / "out")
    assert manifest.image.shape == (3, 6, 8)
    assert manifest.class_counts("train") == [1, 1]
    assert manifest.shards["test"] == []
    assert verify_shards(tmp_path / "out") == (manifest, [])
    first = members(tmp_path / "out" / "train-000000.tar")["00000000.png"]
    image = next(Stub().rows()).image
    np.testing.assert_array_equal(decode_png(first, manifest.image), image, strict=True)
    with Image.open(io.BytesIO(encode_png(image))) as picture:
        assert (picture.mode, picture.size) == ("RGB", (8, 6))


@pytest.mark.parametrize("value", [0, 7, 255])
def test_an_image_is_blank_only_if_all_pixels_are_the_same(value: int) -> None:
    image = np.full((1, 48, 48), value, np.uint8)
    assert is_blank(image)
    for place in (0, 1, -1):
        other = image.copy()
        other.flat[place] = value ^ 1
        assert not is_blank(other)


def test_progress_is_told_for_both_passes(tiny_csv: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int | None]] = []
    create_shards(
        open_source(tiny_csv),
        tmp_path / "out",
        progress=lambda what, done, total: told.append((what, done, total)),
    )
    survey = [("survey", done, None) for done in range(1, 41)]
    assert told == [*survey, *(("write", done, 40) for done in range(1, 41))]


def times(folder: Path) -> dict[str, tuple[int, int]]:
    return {p.name: (p.stat().st_mtime_ns, p.stat().st_ino) for p in folder.iterdir()}


@pytest.mark.parametrize("name", ["fer2013.csv", "fer2013.csv.gz"])
def test_the_same_source_again_rewrites_nothing(
    shard_copy: Path, tmp_path: Path, name: str
) -> None:
    before, manifest = times(shard_copy), load_manifest(shard_copy)
    source = open_source(write_csv(tmp_path / name, tiny_rows()))
    assert create_shards(source, shard_copy, samples_per_shard=TINY_PER_SHARD) == manifest
    assert times(shard_copy) == before


@pytest.mark.parametrize("cut", [None, 100])
def test_the_same_source_again_replaces_shards_that_are_gone_or_cut_off(
    shard_copy: Path, tiny_csv: Path, cut: int | None
) -> None:
    content = snapshot(shard_copy)
    victim = shard_copy / "train-000001.tar"
    victim.unlink() if cut is None else os.truncate(victim, cut)
    create_shards(open_source(tiny_csv), shard_copy, samples_per_shard=TINY_PER_SHARD)
    assert snapshot(shard_copy) == content


def _other_source(path: Path) -> Fer2013Csv:
    return Fer2013Csv(write_csv(path, [face(1), face(2, "PublicTest"), face(0, "PrivateTest", 3)]))


def test_another_source_is_refused_and_changes_nothing(shard_copy: Path, tmp_path: Path) -> None:
    before, content = times(shard_copy), snapshot(shard_copy)
    other = _other_source(tmp_path / "fer2013.csv")
    with pytest.raises(UserError, match=r"holds another shard set .*40 rows.*--force"):
        create_shards(other, shard_copy, samples_per_shard=TINY_PER_SHARD)
    assert (times(shard_copy), snapshot(shard_copy)) == (before, content)


def test_another_size_of_shards_is_another_set(shard_copy: Path, tiny_csv: Path) -> None:
    before = times(shard_copy)
    with pytest.raises(UserError, match="holds another shard set"):
        create_shards(open_source(tiny_csv), shard_copy, samples_per_shard=TINY_PER_SHARD + 1)
    assert times(shard_copy) == before


def test_force_replaces_the_set_and_removes_its_stale_shards(
    shard_copy: Path, tmp_path: Path
) -> None:
    for name in ("notes.txt", "mine-000000.tar", "train-1.tar"):
        (shard_copy / name).write_text("mine")
    manifest = create_shards(_other_source(tmp_path / "fer2013.csv"), shard_copy, force=True)
    assert manifest.source.rows == 3
    assert verify_shards(shard_copy) == (manifest, [])
    shards = {f"{split}-000000.tar" for split in SPLIT_NAMES}
    kept_files = {"notes.txt", "mine-000000.tar", "train-1.tar"}
    assert {path.name for path in shard_copy.iterdir()} == {*shards, "manifest.json", *kept_files}


def test_force_gives_the_same_bytes_as_a_new_folder(
    shard_copy: Path, tiny_csv: Path, tiny_shards: Path
) -> None:
    (shard_copy / "train-000001.tar").write_bytes(b"damaged")
    (shard_copy / "manifest.json").write_text("{")
    create_shards(open_source(tiny_csv), shard_copy, samples_per_shard=TINY_PER_SHARD, force=True)
    assert snapshot(shard_copy) == snapshot(tiny_shards)


def test_an_unreadable_manifest_is_not_replaced_without_force(
    shard_copy: Path, tiny_csv: Path
) -> None:
    (shard_copy / "manifest.json").write_text("{")
    before = snapshot(shard_copy)
    with pytest.raises(UserError, match="not JSON"):
        create_shards(open_source(tiny_csv), shard_copy)
    assert snapshot(shard_copy) == before


def test_what_a_killed_run_left_is_written_anew(
    shard_copy: Path, tiny_csv: Path, tiny_shards: Path
) -> None:
    (shard_copy / "manifest.json").unlink()
    (shard_copy / "train-000001.tar").write_bytes(b"half")
    (shard_copy / "train-000007.tar").write_bytes(b"of an even earlier run")
    create_shards(open_source(tiny_csv), shard_copy, samples_per_shard=TINY_PER_SHARD)
    assert snapshot(shard_copy) == snapshot(tiny_shards)


@pytest.mark.parametrize("size", [0, -1])
def test_shards_of_no_samples_are_refused(tiny_csv: Path, tmp_path: Path, size: int) -> None:
    with pytest.raises(UserError, match=f"--samples-per-shard is {size}; give 1 or more"):
        create_shards(open_source(tiny_csv), tmp_path / "out", samples_per_shard=size)
    assert not (tmp_path / "out").exists()


def test_a_bad_row_leaves_no_folder(tmp_path: Path) -> None:
    rows = [face(), face(), face(9)]
    source = open_source(write_csv(tmp_path / "fer2013.csv", rows))
    with pytest.raises(UserError, match="row 2"):
        create_shards(source, tmp_path / "deep" / "out", samples_per_shard=1)
    assert not (tmp_path / "deep").exists()


def test_a_bad_row_leaves_the_old_set_as_it_was_even_with_force(
    shard_copy: Path, tmp_path: Path
) -> None:
    before = times(shard_copy)
    source = open_source(write_csv(tmp_path / "fer2013.csv", [face(), face(9)]))
    with pytest.raises(UserError, match="row 1"):
        create_shards(source, shard_copy, samples_per_shard=1, force=True)
    assert times(shard_copy) == before


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_that_is_a_file_is_refused(tiny_csv: Path, tmp_path: Path, force: bool) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="out is a file; give a folder"):
        create_shards(open_source(tiny_csv), tmp_path / "out", force=force)
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("force", [False, True])
def test_a_manifest_that_is_a_folder_is_refused(
    tiny_csv: Path, tmp_path: Path, force: bool
) -> None:
    (tmp_path / "out" / "manifest.json").mkdir(parents=True)
    with pytest.raises(UserError, match=r"cannot re.*manifest\.json"):
        create_shards(open_source(tiny_csv), tmp_path / "out", force=force)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["manifest.json"]


@pytest.mark.parametrize("error", [RuntimeError("ours"), KeyboardInterrupt()])
def test_a_failure_midway_leaves_nothing(
    tiny_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    write_shard: Callable[..., Any] = writer.write_shard
    calls = itertools.count(1)

    def failing(path: Path, *rest: Any) -> Any:
        if next(calls) == 2:
            assert len(list(path.parent.iterdir())) == 1  # so there is something to remove
            raise error
        return write_shard(path, *rest)

    monkeypatch.setattr(writer, "write_shard", failing)
    with pytest.raises(type(error)) as caught:
        create_shards(open_source(tiny_csv), tmp_path / "out", samples_per_shard=TINY_PER_SHARD)
    assert caught.value is error
    assert not (tmp_path / "out").exists()


# Each file is synced and then its folder: the calls fail in the first shard, after its renaming,
# in the third shard, in the manifest, and after the renaming of the manifest.
FULL_AT = [1, 2, 5, 11, 12]


def _full_disk(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    fsync: Callable[[int], None] = os.fsync
    calls = itertools.count(1)

    def failing(descriptor: int) -> None:
        if next(calls) == call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)


@pytest.mark.parametrize("call", FULL_AT)
def test_a_full_disk_leaves_nothing(
    tiny_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    _full_disk(monkeypatch, call)
    with pytest.raises(UserError, match="No space left on device; free some space"):
        create_shards(open_source(tiny_csv), tmp_path / "out", samples_per_shard=TINY_PER_SHARD)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("call", FULL_AT)
def test_a_full_disk_leaves_other_files_of_the_folder(
    tiny_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    _full_disk(monkeypatch, call)
    with pytest.raises(UserError, match="No space left"):
        create_shards(open_source(tiny_csv), tmp_path / "out", samples_per_shard=TINY_PER_SHARD)
    assert snapshot(tmp_path / "out") == {"notes.txt": b"mine"}


def test_an_empty_folder_of_the_user_stays(
    tiny_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    _full_disk(monkeypatch, 3)
    with pytest.raises(UserError, match="No space left"):
        create_shards(open_source(tiny_csv), tmp_path / "out", samples_per_shard=TINY_PER_SHARD)
    assert (tmp_path / "out").is_dir()


@pytest.mark.parametrize("call", FULL_AT)
def test_a_set_half_replaced_does_not_pass_for_a_set_and_can_be_made_again(
    shard_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    rows = list(reversed(tiny_rows()))
    source = open_source(write_csv(tmp_path / "fer2013.csv", rows))
    with monkeypatch.context() as patch:
        _full_disk(patch, call)
        with pytest.raises(UserError, match="No space left"):
            create_shards(source, shard_copy, samples_per_shard=TINY_PER_SHARD, force=True)
    with pytest.raises(UserError, match="not a finished shard set"):
        load_manifest(shard_copy)
    manifest = create_shards(source, shard_copy, samples_per_shard=TINY_PER_SHARD)
    assert verify_shards(shard_copy) == (manifest, [])


class Changing(Fer2013Csv):
    """A file that somebody overwrites after the first pass over it."""

    def __init__(self, path: Path, later: list[CsvRow]) -> None:
        super().__init__(path)
        self.texts = iter([None, csv_text(later)])

    def rows(self) -> Iterator[Row]:
        text = next(self.texts)
        if text is not None:
            pack(self.path, text)
        yield from super().rows()


ROWS = [face(index, "Training", index) for index in range(4)]
OTHER_PIXELS = pixel_text(random_image(77))


@pytest.mark.parametrize(
    ("later", "told"),
    [
        ([*ROWS[:2], ROWS[2]._replace(pixels=OTHER_PIXELS), ROWS[3]], "changed while it was read"),
        ([*ROWS[:2], ROWS[2]._replace(emotion="6"), ROWS[3]], "changed while it was read"),
        ([*ROWS[:2], ROWS[2]._replace(Usage="PublicTest"), ROWS[3]], "changed while it was read"),
        ([ROWS[0], ROWS[2], ROWS[1], ROWS[3]], "changed while it was read"),
        (ROWS[:3], "changed while it was read"),
        ([*ROWS, ROWS[0]], "changed while it was read"),
        ([*ROWS[:3], ROWS[3]._replace(emotion="x")], "row 3"),
        ([], "no rows"),
    ],
    ids=["pixel", "label", "split", "order", "fewer", "more", "bad", "none"],
)
def test_a_source_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, later: list[CsvRow], told: str
) -> None:
    source = Changing(write_csv(tmp_path / "fer2013.csv", ROWS), later)
    with pytest.raises(UserError, match=told):
        create_shards(source, tmp_path / "out", samples_per_shard=1)
    assert not (tmp_path / "out").exists()


def test_a_source_that_does_not_change_is_written(tmp_path: Path) -> None:
    source = Changing(write_csv(tmp_path / "fer2013.csv", ROWS), ROWS)
    assert create_shards(source, tmp_path / "out").samples("train") == 4


@pytest.fixture(scope="module")
def real_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = os.environ.get("FER2013_CSV")
    if not path:
        pytest.skip("set FER2013_CSV to a fer2013.csv to run this")
    folder = tmp_path_factory.mktemp("real") / "fer2013"
    create_shards(open_source(Path(path)), folder)
    return folder


@pytest.mark.real_data
def test_fer2013_has_the_known_classes(real_shards: Path) -> None:
    manifest = load_manifest(real_shards)
    assert manifest.source.rows == 35_887
    assert [manifest.samples(split) for split in SPLIT_NAMES] == [28_698, 3_589, 3_589]
    # The published counts of train less the 11 blank images.
    assert manifest.class_counts("train") == [3988, 436, 4097, 7214, 4829, 3170, 4964]
    assert manifest.class_counts("val") == [467, 56, 496, 895, 653, 415, 607]
    assert manifest.class_counts("test") == [491, 55, 528, 879, 594, 416, 626]


@pytest.mark.real_data
def test_fer2013_has_the_known_blanks_and_leaks(real_shards: Path) -> None:
    blanks = [6458, 7629, 10423, 11286, 13148, 13402, 13988, 15894, 22198, 22927, 28601]
    assert load_manifest(real_shards).model_dump()["findings"] == {
        "train": {"blank_rows": blanks, "dropped_rows": blanks, "leaks": 0},
        "val": {"blank_rows": [30002], "dropped_rows": [], "leaks": 280},
        "test": {"blank_rows": [], "dropped_rows": [], "leaks": 288},
    }
    for split, leaks, blank in (("val", 280, 1), ("test", 288, 0)):
        flags = facts(real_shards, split)
        assert sum(fact["leak"] for fact in flags) == leaks
        assert sum(fact["blank"] for fact in flags) == blank
    rows = {fact["row"] for fact in facts(real_shards, "train")}
    assert rows == set(range(28_709)) - set(blanks)


@pytest.mark.real_data
def test_the_shards_of_fer2013_pass_their_own_check(real_shards: Path) -> None:
    assert verify_shards(real_shards)[1] == []
