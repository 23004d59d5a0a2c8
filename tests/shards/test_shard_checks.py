from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

from pattlite_dist.cli import main
from pattlite_dist.commands.shard_checks import reading_of
from pattlite_dist.errors import UserError
from pattlite_dist.shards.create import create_shards
from pattlite_dist.shards.manifest import load_manifest
from pattlite_dist.shards.sources.base import Reading
from pattlite_dist.shards.sources.registry import open_source
from tests.shards import flawed
from tests.shards.conftest import face, snapshot, write_csv
from tests.shards.flawed import edit_manifest, edit_shard, flawed_set, forge_facts
from tests.shards.sources.conftest import images, write_tree


class Said(NamedTuple):
    status: int
    out: str
    err: str


class Shell:
    """The command line, in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *arguments: object) -> Said:
        status = main(["shards", *map(str, arguments)])
        return Said(status, *self.capsys.readouterr())

    def refuses(self, *arguments: object) -> str:
        """The one line of the command's refusal."""
        said = self(*arguments)
        (line,) = said.err.splitlines()
        assert (said.status, said.out) == (2, "")
        assert line.startswith("pattlite: error: ")
        return line


@pytest.fixture
def pattlite(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


@pytest.fixture
def source(original: Path) -> Path:
    return original.parent / "fer2013.csv"


def break_two(shards: Path) -> None:
    (shards / "train-000001.tar").unlink()
    (shards / "val-000000.tar").write_bytes(b"short")


def test_a_good_set_is_one_line(pattlite: Shell, shards: Path) -> None:
    line = f"{shards}: 5 shards, 20 samples, all match the manifest\n"
    assert pattlite("verify", shards, "--jobs", 1) == (0, line, "")


def test_each_bad_shard_is_a_line(pattlite: Shell, shards: Path) -> None:
    break_two(shards)
    (shards / "test-000009.tar").write_bytes(b"")
    said = pattlite("verify", shards, "--jobs=1")
    assert (said.status, said.out) == (1, "")
    first, second, third = said.err.splitlines()
    assert first.startswith(f"pattlite: error: {shards / 'train-000001.tar'} is missing")
    assert second.startswith(f"pattlite: error: {shards / 'val-000000.tar'} has 5 bytes")
    assert third.startswith(f"pattlite: error: {shards / 'test-000009.tar'} is not a shard of")


def test_a_set_in_a_store_is_verified_and_shown(
    pattlite: Shell, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec

    store = fsspec.filesystem("memory")
    store.put(f"{shards}/", "/checked/", recursive=True)
    try:
        line = "memory://checked: 5 shards, 20 samples, all match the manifest\n"
        assert pattlite("verify", "memory://checked", "--jobs=1") == (0, line, "")
        assert "--picture" in pattlite.refuses("show", "memory://checked")
        assert "--picture" in pattlite.refuses("stats", "memory://checked")
        picture = tmp_path / "x.png"
        assert pattlite("show", "memory://checked", "--picture", picture).status == 0
        assert picture.exists()
        assert "copy it first" in pattlite.refuses("verify", "memory://checked", "--repair=x")
        store.rm("/checked/val-000000.tar")
        said = pattlite("verify", "memory://checked", "--jobs=1")
        assert (said.status, said.out) == (1, "")
        assert "memory://checked/val-000000.tar" in said.err
        assert len(said.err.splitlines()) == 1
    finally:
        store.rm("/checked", recursive=True)


def test_a_command_is_not_run(pattlite: Shell) -> None:
    assert "is a command; give a folder" in pattlite.refuses("verify", "pipe:cat {name}")


def test_bad_shards_are_written_again_and_nothing_else_is_touched(
    pattlite: Shell, shards: Path, source: Path, original: Path
) -> None:
    break_two(shards)
    (shards / "notes.txt").write_text("mine")
    good = (shards / "train-000000.tar").stat().st_mtime_ns
    said = pattlite("verify", shards, "--repair", source, "--jobs=1")
    assert (said.status, said.err) == (0, "")
    first, second = said.out.splitlines()
    assert first == (f"{shards}: rewrote train-000001.tar, val-000000.tar from the source")
    assert second.endswith("all match the manifest")
    assert snapshot(shards) == {**snapshot(original), "notes.txt": b"mine"}
    assert (shards / "train-000000.tar").stat().st_mtime_ns == good


def test_repair_of_a_good_set_does_not_even_look_at_the_source(
    pattlite: Shell, shards: Path
) -> None:
    said = pattlite("verify", shards, "--repair", "nowhere.csv", "--jobs=1")
    assert (said.status, said.err) == (0, "")


def test_repair_keeps_to_the_options_of_the_set(pattlite: Shell, tmp_path: Path) -> None:
    shards = flawed_set(tmp_path, blanks="drop", leaks="drop-train")
    before = snapshot(shards)
    (shards / "train-000000.tar").unlink()
    assert pattlite("verify", shards, "--repair", tmp_path / "fer2013.csv", "--jobs=1").status == 0
    assert snapshot(shards) == before


def test_a_stray_shard_is_not_repaired_away(pattlite: Shell, shards: Path, source: Path) -> None:
    break_two(shards)
    (shards / "stray.tar").write_bytes(b"mine")
    said = pattlite("verify", shards, "--repair", source, "--jobs=1")
    assert said.status == 1
    assert said.err.startswith(
        f"pattlite: error: {shards / 'stray.tar'} is not a shard of this set"
    )
    assert (shards / "stray.tar").read_bytes() == b"mine"


def test_another_source_repairs_nothing(pattlite: Shell, shards: Path, tmp_path: Path) -> None:
    break_two(shards)
    before = snapshot(shards)
    other = write_csv(tmp_path / "fer2013.csv", [face()])
    pattlite.refuses("verify", shards, "--repair", other, "--jobs=1")
    pattlite.refuses("verify", shards, "--repair", tmp_path / "none.csv", "--jobs=1")
    assert snapshot(shards) == before


def test_a_shard_that_would_be_written_otherwise_is_let_be(
    pattlite: Shell, shards: Path, source: Path
) -> None:
    break_two(shards)
    edit_shard(shards, "val-000000.tar", sha256="0" * 64)
    before = (shards / "val-000000.tar").read_bytes()
    line = pattlite.refuses("verify", shards, "--repair", source, "--jobs=1")
    assert "val-000000.tar cannot be reproduced" in line
    assert (shards / "val-000000.tar").read_bytes() == before


def test_a_set_with_votes_wants_them_for_its_repair(
    pattlite: Shell, shards: Path, source: Path
) -> None:
    edit_manifest(shards, lambda content: content.update(votes=["neutral"]))
    break_two(shards)
    line = pattlite.refuses("verify", shards, "--repair", source, "--jobs=1")
    assert "give that file with --votes FILE" in line
    assert "--repair SOURCE" in pattlite.refuses("verify", shards, "--votes", source)


def test_the_words_of_a_manifest_become_what_was_said_to_the_reader(tmp_path: Path) -> None:
    named = Reading(image_column="0", label_column="emotion")
    assert reading_of(named.words(), None) == named
    assert reading_of({}, None) == Reading()
    words = {"kind": "folder", "channels": "3", "image_size": "64", "unlabelled": "skip"}
    assert reading_of({**words, "target": "soft"}, tmp_path) == Reading(
        kind="folder", channels=3, image_size=64, unlabelled="skip", target="soft", votes=tmp_path
    )


@pytest.mark.parametrize(
    "words", [{"mood": "good"}, {"channels": "2"}, {"unlabelled": "x"}, {"image_size": "big"}]
)
def test_words_of_another_version_are_refused(words: dict[str, str]) -> None:
    with pytest.raises(
        UserError, match=rf"{next(iter(words))}.*; use the version that created the set"
    ):
        reading_of(words, None)


def column(out: str, name: str) -> list[str]:
    """The cells of a split in the printed table."""
    lines = [line.replace("┃", "│").strip("│\n").split("│") for line in out.splitlines()]
    rows = [[cell.strip() for cell in cells] for cells in lines if len(cells) > 1]
    return [row[rows[0].index(name)] for row in rows]


def test_stats_prints_a_table_and_remarks_and_draws(pattlite: Shell, shards: Path) -> None:
    for name in ("train-000000.tar", "val-000000.tar"):  # only the manifest is needed
        (shards / name).unlink()
    said = pattlite("stats", shards)
    assert (said.status, said.err) == (0, "")
    counts = ["2", "2", "2", "3", "1", "1", "1", "12", "3", "1", "1", "0", "0", "2", "3"]
    assert column(said.out, "train") == ["train", *counts]
    assert max(map(len, said.out.splitlines())) < 160
    assert "times as many" in said.out
    assert said.out.splitlines()[-1] == str(shards / "classes.png")
    with Image.open(shards / "classes.png") as picture:
        assert picture.format == "PNG"


def test_class_names_are_printed_as_they_are(pattlite: Shell, shards: Path) -> None:
    edit_manifest(shards, lambda content: content["labels"].__setitem__(0, "[red]x"))
    assert "[red]x" in column(pattlite("stats", shards).out, "class")


def test_stats_of_a_set_without_samples_draws_nothing(pattlite: Shell, shards: Path) -> None:
    edit_manifest(shards, lambda content: content.update(shards={}))
    said = pattlite("stats", shards)
    assert said.status == 0
    assert said.out.splitlines()[-1] == f"{shards}: no samples, so no picture"
    assert not (shards / "classes.png").exists()


def test_show_draws_a_sheet(pattlite: Shell, shards: Path, tmp_path: Path) -> None:
    assert pattlite("show", shards) == (0, f"{shards / 'samples.png'}\n", "")
    other = tmp_path / "other.png"
    arguments = ["--split=val", "--columns=3", "--seed=1", "--flagged", "--picture", other]
    assert pattlite("show", shards, *arguments) == (0, f"{other}\n", "")
    with Image.open(shards / "samples.png") as large, Image.open(other) as small:
        assert large.size > small.size
    flagged = pattlite("show", shards, "--split=val", "--columns=1", "--flagged")
    assert flagged == (0, f"{shards / 'flagged.png'}\n", "")
    assert pattlite("verify", shards, "--jobs=1").status == 0


def test_show_says_when_nothing_is_flagged(pattlite: Shell, shards: Path) -> None:
    forge_facts(shards, "val-000000.tar", flawed.LEAK, leak=False, copies=1)
    said = pattlite("show", shards, "--split=val", "--flagged")
    assert said == (0, f"{shards}: no sample of val is flagged, so no picture\n", "")
    assert not (shards / "samples.png").exists()


@pytest.mark.parametrize("verb", ["stats", "show"])
def test_a_place_that_cannot_be_written_names_the_option(
    pattlite: Shell, shards: Path, verb: str
) -> None:
    said = pattlite(verb, shards, "--picture", shards / "manifest.json" / "x.png")
    assert said.status == 2
    assert said.err.endswith("; choose a file with --picture\n")
    assert len(said.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["verify"], "dir; see `pattlite shards verify --help`"),
        (["verify", "a", "b"], "b; see `pattlite shards verify --help`"),
        (["stats"], "dir; see `pattlite shards stats --help`"),
        (["show", "DIR", "--columns=0"], "--columns is 0"),
        (["show", "DIR", "--columns=101"], "--columns is 101"),
        (["show", "DIR", "--seed=-1"], "--seed is -1"),
        (["show", "DIR", "--split=all"], "split"),
        (["verify", "DIR", "--jobs=0"], "--jobs is 0"),
        (["verify", "DIR", "--jobs=x"], "jobs"),
    ],
)
def test_a_wrong_use_is_one_line(
    pattlite: Shell, shards: Path, arguments: list[str], told: str
) -> None:
    used: list[Any] = [shards if word == "DIR" else word for word in arguments]
    assert told in pattlite.refuses(*used)


@pytest.mark.parametrize("verb", ["verify", "stats", "show"])
@pytest.mark.parametrize("what", ["nothing", "folder", "file", "broken"])
def test_what_is_no_shard_set_is_refused(
    pattlite: Shell, tmp_path: Path, verb: str, what: str
) -> None:
    folder = tmp_path / "set"
    if what == "file":
        folder.write_text("something")
    elif what != "nothing":
        folder.mkdir()
    if what == "broken":
        (folder / "manifest.json").write_text("{\n\n")
    line = pattlite.refuses(verb, folder)
    assert str(folder) in line
    assert ("not JSON" if what == "broken" else "not a finished shard set") in line


def test_a_set_cut_into_splits_is_repaired(pattlite: Shell, tmp_path: Path) -> None:
    for label in ("no", "yes"):
        (tmp_path / "tree" / label).mkdir(parents=True)
        for number in range(10):
            grey = 10 * number + (label == "yes")
            image = Image.new("L", (8, 8), grey)
            image.putpixel((0, 0), 255 - grey)
            image.save(tmp_path / "tree" / label / f"{number}.png")
    create_shards(open_source(tmp_path / "tree"), tmp_path / "set", samples_per_shard=8)
    assert load_manifest(tmp_path / "set").samples("val") > 0
    before = snapshot(tmp_path / "set")
    (tmp_path / "set" / "val-000000.tar").write_bytes(b"")
    said = pattlite("verify", tmp_path / "set", "--repair", tmp_path / "tree", "--jobs=1")
    assert (said.status, said.err) == (0, "")
    assert snapshot(tmp_path / "set") == before


def test_a_set_of_folders_that_the_user_called_classes_is_repaired(
    pattlite: Shell, tmp_path: Path
) -> None:
    content = images(
        f"{s}/{c}/{i}.png" for s in ("train", "val", "test") for c in (3, 17) for i in "ab"
    )
    tree, out = write_tree(tmp_path / "tree", content), tmp_path / "set"
    create_shards(open_source(tree, Reading(kind="folder")), out)
    assert load_manifest(out).labels == ["17", "3"]
    before = snapshot(out)
    (out / "val-000000.tar").write_bytes(b"")
    assert pattlite("verify", out, "--repair", tree, "--jobs=1").status == 0
    assert snapshot(out) == before
