import io
import pickle
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import webdataset

from pattlite_dist.errors import UserError
from pattlite_dist.shards.create import create_shards
from pattlite_dist.shards.sources.base import Reading, Source
from pattlite_dist.shards.sources.registry import open_source
from pattlite_dist.shards.verify import verify_shards
from tests.shards.sources.conftest import encoded, refused, write_tree, write_zip

NAMES = b"angry\ndisgust\nhappiness\n"


class Bomb:
    """Unpickled, it would fail the test."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("unpickled",)


def write_tar(path: Path, members: Iterable[tuple[str, bytes]], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def samples(
    labels: Iterable[int], kind: str = "png", key: str = "s{:07d}"
) -> list[tuple[str, bytes]]:
    """An image and a `.cls` for each label."""
    form = {"jpg": "JPEG"}.get(kind, kind.upper())
    return [
        member
        for number, label in enumerate(labels)
        for member in (
            (f"{key.format(number)}.{kind}", encoded(number, form)),
            (f"{key.format(number)}.cls", str(label).encode()),
        )
    ]


def told(source: Source) -> list[tuple[str, str, str | None]]:
    """File, class and split of each item."""
    return [((i.facts or {})["file"], source.labels[i.label], i.split) for i in source.items()]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """As CLIP benchmark has it, with webp images."""
    folder = write_tree(tmp_path / "wds", {"classnames.txt": NAMES})
    write_tar(folder / "train/0.tar", samples([0, 2, 1], "webp"))
    write_tar(folder / "test/0.tar", samples([2, 0], "webp"))
    return folder


def test_a_folder_for_each_split_and_numbers_named_by_a_file(clip: Path) -> None:
    source = open_source(clip)
    assert source.kind == "webdataset" and source.cut == ("val",)
    assert source.labels == ("angry", "disgust", "happy")
    assert sorted(told(source)) == [
        ("test/0.tar/s0000000.webp", "happy", "test"),
        ("test/0.tar/s0000001.webp", "angry", "test"),
        ("train/0.tar/s0000000.webp", "angry", None),
        ("train/0.tar/s0000001.webp", "happy", None),
        ("train/0.tar/s0000002.webp", "disgust", None),
    ]
    items = list(source.items())
    assert [item.row for item in items] == list(range(5)) and source.expected(0) == 5
    assert len(source.sha256) == 64
    assert source.decode(items[0])[0].shape == (3, 48, 48)


@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_what_webdatasets_own_writer_writes_is_read(tmp_path: Path, kind: str) -> None:
    with webdataset.ShardWriter(str(tmp_path / "train-%04d.tar"), maxcount=2, verbose=0) as sink:
        for number in range(5):
            image = encoded(number, {"jpg": "JPEG"}.get(kind, kind))
            facts = {"label": ["cat", "dog"][number % 2], "weight": 0.5}
            sink.write({"__key__": f"x/{number:03d}", kind: image, "json": facts})
    source = open_source(tmp_path)
    assert [name for _, name, _ in told(source)] == ["cat", "dog", "cat", "dog", "cat"]
    assert told(source)[4][0] == f"train-0002.tar/x/004.{kind}"
    assert source.cut == ("val", "test")
    for pattern in ("train-{0000..0002}.tar", "train-000{0,1,2}.tar"):
        assert told(open_source(str(tmp_path / pattern))) == told(source)
    assert len(told(open_source(tmp_path / "train-0001.tar"))) == 2


def test_what_img2dataset_writes_is_read_by_the_texts_of_its_images(tmp_path: Path) -> None:
    for number in (9, 10, 11):
        members = []
        for place in range(2):
            key = f"{number:05d}{place:04d}"
            members += [
                (f"{key}.jpg", encoded(number + place, "JPEG")),
                (f"{key}.txt", [b"cat", b"dog"][place]),
                (f"{key}.json", b'{"caption": "x", "url": "https://host/1.jpg"}'),
            ]
        write_tar(tmp_path / f"{number}.tar", members)
        (tmp_path / f"{number}_stats.json").write_text("{}")
        (tmp_path / f"{number}.parquet").write_text("")
    source = open_source(tmp_path)
    assert [file.split("/")[0] for file, _, _ in told(source)][::2] == ["9.tar", "10.tar", "11.tar"]
    assert source.labels == ("cat", "dog")


def test_nothing_in_a_shard_is_unpickled(tmp_path: Path) -> None:
    bomb = pickle.dumps(Bomb())
    members = [
        (name, data)
        for number in range(2)
        for name, data in [
            (f"{number}.png", encoded(number)), (f"{number}.txt", [b"a", b"b"][number]),
            *((f"{number}.{kind}", bomb) for kind in ("pyd", "pickle", "pth", "npy", "x.pt")),
        ]
    ]  # fmt: skip
    write_tar(tmp_path / "0.tar", members)
    assert [name for _, name, _ in told(open_source(tmp_path))] == ["a", "b"]


def test_splits_by_name_and_our_own_sets_are_read(tmp_path: Path) -> None:
    for split, labels in (("train", [0, 1, 0]), ("valid", [0, 1]), ("test", [1, 0])):
        members = [
            (name.replace("cls", "json"), b'{"label": "%s"}' % [b"cat", b"dog"][int(data)])
            if name.endswith("cls") else (name, data)
            for name, data in samples(labels)
        ]  # fmt: skip
        write_tar(tmp_path / f"fer_{split}_00.tar", members)
    source = open_source(tmp_path)
    assert source.cut == ()
    create_shards(source, tmp_path / "ours")
    again = open_source(tmp_path / "ours")
    assert [(name, split) for _, name, split in told(again)] == [
        (name, split) for _, name, split in sorted(told(source), key=lambda row: row[2] or "")
    ]
    _, problems = verify_shards(tmp_path / "ours")
    assert problems == []


def test_numbers_without_names_are_refused_with_the_cure(tmp_path: Path) -> None:
    write_tar(tmp_path / "train.tar", samples([0, 1]))
    refused(lambda: open_source(tmp_path), "numbers (0, 1)", "classnames.txt")
    (tmp_path / "classnames.txt").write_text("cat\n")
    refused(lambda: open_source(tmp_path), "the label 1 is not one of the 1")


def test_samples_without_image_or_label_are_counted_or_refused(tmp_path: Path) -> None:
    members = [*samples([0, 1]), ("a.json", b"{}"), ("b.png", encoded(9)), ("b.json", b"{}")]
    write_tar(tmp_path / "0.tar", members)
    (tmp_path / "classnames.txt").write_text("cat\ndog\n")
    refused(lambda: open_source(tmp_path), "0.tar, sample b", "no label", "--unlabelled skip")
    source = open_source(tmp_path, Reading(unlabelled="skip"))
    assert source.left_out == {"no image": 1, "no label": 1}
    assert [item.row for item in source.items()] == [0, 1]


def test_a_tar_of_a_packed_folder_is_refused_with_the_cure(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", [("cat/1.png", encoded(1)), ("dog/1.png", encoded(2))])
    refused(lambda: open_source(tmp_path), "sample cat/1", "no label", "must be unpacked")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "is not a WebDataset shard, or is damaged"),
        (b"text" * 1000, "is not a WebDataset shard, or is damaged"),
        (b"\x1f\x8b123", "is compressed"),
    ],
)
def test_what_is_no_tar_is_refused(tmp_path: Path, data: bytes, what: str) -> None:
    (tmp_path / "0.tar").write_bytes(data)
    refused(lambda: open_source(tmp_path), "0.tar", what)


def test_a_truncated_tar_or_a_member_twice_is_refused(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "a" / "0.tar", samples([0, 1])).read_bytes()
    for cut in (len(whole) // 4, 700):
        (tmp_path / "a" / "0.tar").write_bytes(whole[:cut])
        refused(lambda: open_source(tmp_path / "a"), "0.tar")
    write_tar(tmp_path / "b" / "0.tar", [*samples([0])[:1], *samples([0])])
    refused(lambda: open_source(tmp_path / "b"), "damaged", "s0000000.png")


def test_shards_in_a_zip_are_to_be_unpacked(tmp_path: Path, clip: Path) -> None:
    data = (clip / "train/0.tar").read_bytes()
    path = write_zip(tmp_path / "a.zip", {"train/0.tar": data, "test/0.tar": data})
    refused(lambda: open_source(path), "unpack the zip")


def test_a_kind_that_reads_something_else_is_refused(clip: Path) -> None:
    for where in (clip / "train/0.tar", str(clip / "train/{0..0}.tar")):
        with pytest.raises(UserError, match="--source folder reads something else"):
            open_source(where, Reading(kind="folder"))


def test_a_source_changes_with_its_files_and_with_labels(clip: Path) -> None:
    source = open_source(clip)
    list(source.items())
    stamp, sha256 = source.stamp(), source.sha256
    write_tar(clip / "train/0.tar", samples([0, 2, 1, 1], "webp"))
    changed = open_source(clip)
    list(changed.items())
    assert changed.stamp() != stamp and changed.sha256 != sha256
