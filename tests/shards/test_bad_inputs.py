"""What `pattlite shards create` refuses: one line, exit status 2, and nothing changed."""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pattlite_dist.cli import main
from tests.shards.conftest import HEADER, csv_text, face, snapshot, write_csv
from tests.shards.sources.conftest import encoded, images, write_tree, write_zip

VOTES_HEADER = (
    "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
)


def _file(name: str, data: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return make


def _rows(*rows: tuple[str, ...], header: tuple[str, ...] = HEADER) -> Callable[[Path], Path]:
    return _file("fer2013.csv", csv_text(rows, header).encode())


def _tree(content: dict[str, bytes]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "set").mkdir()
        return write_tree(folder / "set", content)

    return make


def _zip(content: dict[str, bytes], end: int | None = None) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = write_zip(folder / "set.zip", content)
        path.write_bytes(path.read_bytes()[:end])
        return path

    return make


def _cut(suffix: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = write_csv(folder / f"fer2013{suffix}", [face()])
        path.write_bytes(path.read_bytes()[:-20])
        return path

    return make


def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / "fer2013.csv")
    return folder / "fer2013.csv"


def _climbing(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "set.zip", "w") as archive:
        archive.writestr("../cat/1.png", encoded(0))
    return folder / "set.zip"


def _twice(folder: Path) -> Path:
    path = write_zip(folder / "set.zip", images(["cat/1.png", "dog/2.png"]))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("cat\\1.png", encoded(1))
    return path


FACE = face()
CSV = csv_text([FACE]).encode()
RAF_LIST = "EmoLabel/list_patition_label.txt"
TREE = images(["train/cat/1.png", "train/dog/2.png"])

# The source, and what the message must contain besides its path.
SOURCES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda folder: folder / "none.csv", "does not exist"),
    "name too long": (lambda folder: folder / ("x" * 300), "too long"),
    "below a file": (lambda folder: _file("a", b"")(folder) / "b.csv", "does not exist"),
    "a pipe": (_pipe, "neither a folder nor a file"),
    "unknown kind": (_file("faces.npz", b"PK"), "of an unknown kind"),
    "empty csv": (_file("fer2013.csv", b""), "has no column emotion, pixels, Usage"),
    "binary csv": (_file("fer2013.csv", bytes(range(256))), "is not text"),
    "UTF-16": (_file("fer2013.csv", csv_text([FACE]).encode("utf-16")), "is not text"),
    "no column": (_rows(FACE, header=("emotion", "pixels", "use")), "has no column Usage"),
    "two columns": (_rows(FACE, header=(*HEADER, "Usage")), "two columns named Usage"),
    "no rows": (_rows(), "a header but no rows"),
    "bad label": (_rows(FACE, face(9)), "row 1 (line 3): label '9'"),
    "bad usage": (_rows(face(0, "x\ny")), "row 0 (line 2): Usage 'x\\ny'"),
    "too few pixels": (_rows(FACE._replace(pixels="1 2")), "row 0 (line 2): 2 pixels"),
    "bad pixel": (_rows(FACE._replace(pixels="1 x")), "row 0 (line 2): the pixels are not"),
    "pixel out of range": (_rows(FACE._replace(pixels="256 " * 2304)), "outside 0 to 255"),
    "cut row": (_file("fer2013.csv", CSV[:-12]), "row 0 (line 2): 2 fields"),
    "endless field": (_file("fer2013.csv", b'a,"' + b"1\n" * 100_000), "not a CSV file"),
    "cut xz": (_cut(".csv.xz"), "truncated or damaged"),
    "cut gz": (_cut(".csv.gz"), "truncated or damaged"),
    "cut zip": (_zip({"fer2013.csv": CSV}, -20), "truncated or damaged"),
    "no zip": (_file("set.zip", b"something"), "is not a zip"),
    "zip that climbs": (_climbing, "points outside the zip"),
    "zip with a name twice": (_twice, "two of this name"),
    "zip of two csv files": (_zip({"a.csv": CSV, "b.csv": CSV}), "contains 2 CSV files"),
    "zip of a zip": (_zip({"fer2013.csv.zip": b"PK"}), "a zip within a zip"),
    "empty folder": (_tree({}), "contains nothing that can be read"),
    "no class folders": (_tree(images(["1.png"])), "contains nothing that can be read"),
    "challenge without labels": (
        _zip({name: csv_text([FACE], header).encode() for name, header in (
            ("train.csv", ("emotion", "pixels")), ("test.csv", ("pixels",)),
        )}),
        "test.csv, row 1 (line 2): it has no label",
    ),
    "one class": (_tree(images(["cat/1.png", "cat/2.png"])), "images of 1 class"),
    "class that train lacks": (
        _tree({**TREE, **images(["val/cow/1.png"])}), "'cow' has no images in train",
    ),
    "damaged image": (_tree({**TREE, "train/cat/3.png": encoded(3)[:99]}), "train/cat/3.png: "),
    "no image": (_tree({**TREE, "train/cat/3.png": b"text"}), "train/cat/3.png: "),
    "empty image": (_tree({**TREE, "train/cat/3.png": b""}), "train/cat/3.png: "),
    "image beside classes": (_tree({**TREE, **images(["train/3.png"])}), "not in a class folder"),
    "folders of splits": (
        _tree(images(["train_images/1.png", "test_images/2.png"])), "no classes, for their names",
    ),
    "folders of numbers": (_tree(images(["0/1.png", "7/2.png"])), "nothing tells what they mean"),
    "a JSON beside each": (
        _tree({**images(["a/1.png", "b/2.png"]), "a/1.json": b"", "b/2.json": b""}), "have a .json",
    ),
    "a class of films": (
        _tree({**TREE, "train/cow/1.mp4": b""}), "train/cow: it has no images, only 1 .mp4",
    ),
    "CK+ of another name": (_rows(FACE, face(7)), "--source ck+csv"),
    "a tar.gz of something": (_file("a.tar.gz", b"no tar"), "is truncated or damaged"),
    "RAF-DB with another table": (
        _tree({**images(["train/1/train_1_aligned.jpg"]),
               "train_labels.csv": b"image,label\ntrain_1_aligned.jpg,2\n"}),
        "train_labels.csv, line 2: it gives train_1_aligned.jpg the label 2",
    ),
    "folder too deep": (_tree(images(["a/b/c/d/1.png", "a/x/1.png"])), "class folder"),
    "FER2013 in a class of its own": (_tree(images(["train/glad/Training_1.png"])), "'glad'"),
    "CK+48 in a class of its own": (_tree(images(["glad/S010_004_00000017.png"])), "'glad'"),
    "RAF-DB without images": (_tree({RAF_LIST: b"train_00001.jpg 1"}), "line 1: there is no"),
    "RAF-DB with a bad label": (_tree({RAF_LIST: b"train_00001.jpg 8"}), "label '8' is not"),
    "RAF-DB with an empty list": (_tree({RAF_LIST: b""}), "it is empty"),
}  # fmt: skip

# Options that are wrong for any source, and what the message must contain besides their names.
OPTIONS: dict[str, str] = {
    "--source=nonsense": "not a reader",
    "--source=folder": "reads folders and zips",
    "--jobs=0": "give 1 or more",
    "--jobs=-2": "give 1 or more",
    "--jobs=many": "",
    "--samples-per-shard=0": "give 1 or more",
    "--samples-per-shard=-1": "give 1 or more",
    "--samples-per-shard=1.5": "",
    "--val-fraction=2": "less than 1",
    "--val-fraction=0": "greater than 0",
    "--val-fraction=nan": "",
    "--test-fraction=-0.1": "greater than 0",
    "--seed=-1": "greater than or equal to 0",
    "--seed=x": "",
    "--blanks=remove": "",
    "--leaks=drop": "",
    "--unlabelled=guess": "",
    "--other-images=crop": "",
    "--damaged=keep": "",
    "--channels=2": "",
    "--image-size=big": "",
    "--target=soft": "give them with --votes FILE",
    "--target=majority": "give them with --votes FILE",
    "--target=hard": "",
    "--votes=none.csv": "cannot read none.csv",
    "--nonsense=1": "",
}


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run `shards create` with arguments; returns the one line of its refusal."""

    def run(*arguments: object) -> str:
        words = [str(argument) for argument in arguments]
        jobs = [] if any(word.startswith("--jobs") for word in words) else ["--jobs=1"]
        assert main(["shards", "create", *words, *jobs]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        (line,) = said.err.splitlines()
        assert line.startswith("pattlite: error: ")
        assert "; " in line  # followed by how to fix it
        return line

    return run


@pytest.mark.parametrize("what", SOURCES)
def test_a_bad_source_is_told_in_one_line_and_leaves_nothing(
    refused: Callable[..., str], tmp_path: Path, what: str
) -> None:
    make, told = SOURCES[what]
    path = make(tmp_path)
    line = refused(path, tmp_path / "deep" / "out")
    assert str(path) in line and told in line
    assert not (tmp_path / "deep").exists()


@pytest.mark.parametrize("option", OPTIONS)
def test_a_bad_option_is_told_in_one_line_and_leaves_nothing(
    refused: Callable[..., str], tiny_csv: Path, tmp_path: Path, option: str
) -> None:
    line = refused(tiny_csv, tmp_path / "out", option)
    name, value = option.removeprefix("--").split("=")
    # The command-line parser calls some by their variable names.
    assert value in line if name == "votes" else name in line or name.replace("-", "_") in line
    assert OPTIONS[option] in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([], "is empty"),
        (["a,b"], "begins with 'a,b'"),
        ([VOTES_HEADER], "it has 0 rows but none for"),
        ([VOTES_HEADER, "Training,x,1"], "row 0 (line 2): 3 fields"),
        ([VOTES_HEADER, "Training,x" + ",x" * 10], "'x' is not a number of votes"),
        ([VOTES_HEADER, "PublicTest,x" + ",1" * 10], "it is in val"),
        ([VOTES_HEADER, *["Training,x" + ",1" * 10] * 2], "it has 2 rows, but"),
    ],
)
def test_bad_votes_are_told_in_one_line_and_leave_nothing(
    refused: Callable[..., str], tmp_path: Path, lines: list[str], told: str
) -> None:
    source, votes = write_csv(tmp_path / "a.csv", [FACE]), tmp_path / "votes.csv"
    votes.write_text("".join(f"{line}\n" for line in lines))
    line = refused(source, tmp_path / "out", "--votes", votes)
    assert str(votes) in line and told in line
    assert not (tmp_path / "out").exists()


def test_a_set_that_cannot_be_cut_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    rows = [face(0, seed=0), face(1, seed=1)]
    path = write_csv(tmp_path / "train.csv", rows, ("emotion", "pixels"))
    line = refused(path, tmp_path / "out", "--val-fraction=0.6", "--test-fraction=0.6")
    assert "--val-fraction or --test-fraction" in line
    assert not (tmp_path / "out").exists()


def test_images_of_another_size_can_be_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    path = write_tree(tmp_path / "set", TREE)
    line = refused(path, tmp_path / "out", "--other-images=refuse", "--image-size=50")
    assert str(path / "train" / "cat" / "1.png") in line
    for size in (0, -1, 100_000):
        assert "--image-size" in refused(path, tmp_path / "out", f"--image-size={size}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", ["file", "file/out", "x" * 300, "pipe:cat", "http://localhost/x"])
def test_an_out_that_cannot_be_is_refused(
    refused: Callable[..., str],
    tiny_csv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    out: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    assert out in refused(tiny_csv, out)
    assert snapshot(tmp_path) == {"file": b"mine"}


@pytest.mark.parametrize("force", [False, True])
def test_a_bad_source_leaves_another_set_as_it_was(
    refused: Callable[..., str], shard_copy: Path, tmp_path: Path, force: bool
) -> None:
    before = snapshot(shard_copy)
    path = write_csv(tmp_path / "bad.csv", [FACE, face(9)])
    assert str(path) in refused(path, shard_copy, *["--force"] * force)
    assert snapshot(shard_copy) == before


def test_another_set_or_other_files_are_not_replaced(
    refused: Callable[..., str], tiny_csv: Path, shard_copy: Path
) -> None:
    before = snapshot(shard_copy)
    assert "--force" in refused(tiny_csv, shard_copy)  # because of other options
    (shard_copy / "manifest.json").unlink()
    assert "no manifest" in refused(tiny_csv, shard_copy)
    (shard_copy / "manifest.json").write_text("{")
    assert "is not JSON" in refused(tiny_csv, shard_copy)
    assert snapshot(shard_copy) == {**before, "manifest.json": b"{"}
