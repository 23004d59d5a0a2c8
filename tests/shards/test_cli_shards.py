import io
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from pattlite_dist.cli import main
from pattlite_dist.shards.companions import COMPANION_NAMES
from pattlite_dist.shards.manifest import SPLIT_NAMES, load_manifest
from pattlite_dist.shards.sources.fer2013 import FER2013_SPLITS
from tests.shards.conftest import TINY_PER_SHARD, face, snapshot, write_csv
from tests.shards.sources.conftest import encoded, picture, write_tree


class Said(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def pattlite(capsys: pytest.CaptureFixture[str]) -> "Shell":
    return Shell(capsys)


class Shell:
    """The command line, in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *arguments: object) -> Said:
        words = [str(argument) for argument in arguments]
        # One process: starting more takes longer than everything else here.
        status = main(words + ["--jobs=1"] * (words[:2] == ["shards", "create"] and len(words) > 3))
        out, err = self.capsys.readouterr()
        return Said(status, out, err)

    def refuses(self, *arguments: object) -> str:
        """The one line of the command's refusal."""
        said = self(*arguments)
        assert said.status == 2
        assert said.out == ""
        (line,) = said.err.splitlines()
        assert line.startswith("pattlite: error: ")
        assert said.err.endswith("\n")
        return line


def table_column(out: str, split: str) -> list[str]:
    """The cells of a split's column in the printed table, below the header."""
    lines = [line.replace("┃", "│").strip("│").split("│") for line in out.splitlines()]
    rows = [[cell.strip() for cell in cells] for cells in lines if len(cells) > 1]
    return [row[rows[0].index(split)] for row in rows[1:]]


def test_create_verify_and_stats_in_turn(
    pattlite: Shell, tiny_csv: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    out = tmp_path / "deep" / "out"
    options = ["--samples-per-shard", TINY_PER_SHARD, "--blanks=drop"]
    created = pattlite("shards", "create", tiny_csv, out, *options)
    assert (created.status, created.err) == (0, "")
    manifest = load_manifest(out)
    assert created.out.endswith(f"{out}: finished, manifest {manifest.fingerprint()[:12]}\n")
    assert snapshot(out) == snapshot(tiny_shards)

    verified = pattlite("shards", "verify", out, "--jobs=1")
    samples = sum(map(manifest.samples, SPLIT_NAMES))
    line = f"{out}: 5 shards, {samples} samples, all match the manifest\n"
    assert verified == (0, line, "")

    counted = pattlite("shards", "stats", out)
    assert (counted.status, counted.err) == (0, "")
    for said in (created, counted):
        for split in SPLIT_NAMES:
            counts = [*manifest.class_counts(split), manifest.samples(split)]
            assert table_column(said.out, split)[:8] == [str(count) for count in counts]


def test_a_shard_takes_2048_samples_unless_told(
    pattlite: Shell, tiny_csv: Path, tmp_path: Path
) -> None:
    assert pattlite("shards", "create", tiny_csv, tmp_path / "out").status == 0
    assert load_manifest(tmp_path / "out").samples_per_shard == 2048


def test_creating_again_says_the_same(pattlite: Shell, tiny_csv: Path, tmp_path: Path) -> None:
    first = pattlite("shards", "create", tiny_csv, tmp_path / "out")
    before = snapshot(tmp_path / "out")
    assert pattlite("shards", "create", tiny_csv, tmp_path / "out") == first
    assert snapshot(tmp_path / "out") == before


def test_another_set_needs_force(pattlite: Shell, shard_copy: Path, tmp_path: Path) -> None:
    other = write_csv(
        tmp_path / "other.csv",
        [face(usage=usage, seed=seed) for seed, usage in enumerate(FER2013_SPLITS)],
    )
    before = snapshot(shard_copy)
    line = pattlite.refuses("shards", "create", other, shard_copy)
    assert "another shard set" in line and line.endswith("replace it with --force")
    assert snapshot(shard_copy) == before
    assert pattlite("shards", "create", other, shard_copy, "--force").status == 0
    names = {*(f"{split}-000000.tar" for split in SPLIT_NAMES), "manifest.json", *COMPANION_NAMES}
    assert {path.name for path in shard_copy.iterdir()} == names


def bad_sources(folder: Path) -> dict[str, Path]:
    """Sources that are refused, by what the message must contain."""
    (folder / "empty").mkdir()
    (folder / "faces.npz").write_bytes(b"PK")
    (folder / "binary.csv").write_bytes(bytes(range(256)))
    (folder / "cut.csv.xz").write_bytes(
        write_csv(folder / "whole.csv.xz", [face()]).read_bytes()[:-9]
    )
    return {
        "does not exist": folder / "none.csv",
        "contains nothing that can be read": folder / "empty",
        "of an unknown kind": folder / "faces.npz",
        "not text": folder / "binary.csv",
        "truncated or damaged": folder / "cut.csv.xz",
        "no column Usage": write_csv(folder / "a.csv", [face()], ("emotion", "pixels", "use")),
        "no rows": write_csv(folder / "b.csv", []),
        "row 1 (line 3): label '9'": write_csv(folder / "c.csv", [face(), face(9)]),
        "row 0 (line 2): Usage 'x\\ny'": write_csv(folder / "d.csv", [face(0, "x\ny")]),
    }


def test_every_bad_source_is_told_in_one_line_and_leaves_nothing(
    pattlite: Shell, tmp_path: Path
) -> None:
    for told, source in bad_sources(tmp_path).items():
        line = pattlite.refuses("shards", "create", source, tmp_path / "out")
        assert told in line
        assert str(source) in line
        assert "; " in line  # followed by how to fix it
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_is_refused(
    pattlite: Shell, tiny_csv: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    assert "is a file" in pattlite.refuses("shards", "create", tiny_csv, tmp_path / "file")
    below = tmp_path / "file" / "out"
    assert "cannot " in pattlite.refuses("shards", "create", tiny_csv, below)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("size", ["0", "-3", "many", "1.5", ""])
def test_a_bad_number_of_samples_is_refused(
    pattlite: Shell, tiny_csv: Path, tmp_path: Path, size: str
) -> None:
    line = pattlite.refuses(
        "shards", "create", tiny_csv, tmp_path / "out", f"--samples-per-shard={size}"
    )
    assert "samples" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["shards"], "'shards' is not a verb; known are shards create"),
        (["shards", "make"], "'shards make' is not a verb"),
        (["shard"], "'shard' is not a verb"),
        (["shards", "create"], "source, out"),
        (["shards", "create", "a.csv"], "out; see `pattlite shards create --help`"),
        (["shards", "create", "a.csv", "b", "c"], "c; see `pattlite shards create --help`"),
        (["shards", "create", "a.csv", "b", "--nope"], "--nope"),
        (["shards", "create", "a.csv", "b", "nope=1"], "nope"),
    ],
)
def test_a_wrong_use_is_told_in_one_line(pattlite: Shell, arguments: list[str], told: str) -> None:
    assert told in pattlite.refuses(*arguments)


@pytest.mark.parametrize("verb", ["create", "verify", "stats", "show"])
def test_help_tells_the_options(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["shards", verb, "--help"])
    assert left.value.code == 0
    out = capsys.readouterr().out
    assert f"pattlite shards {verb}" in out
    assert ("--samples-per-shard" in out) == ("--force" in out) == (verb == "create")
    assert ("--picture" in out) == (verb in ("stats", "show"))


def test_an_interruption_is_told_without_a_traceback(
    pattlite: Shell, tiny_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pattlite_dist.shards.create.write_shard", interrupted)
    said = pattlite("shards", "create", tiny_csv, tmp_path / "out")
    assert said == (130, "", "pattlite: interrupted\n")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".creating"]  # to resume from


def test_a_fault_of_ours_is_not_hidden(
    pattlite: Shell, tiny_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("pattlite_dist.shards.create.write_shard", broken)
    with pytest.raises(ZeroDivisionError):
        pattlite("shards", "create", tiny_csv, tmp_path / "out")


@pytest.mark.parametrize(
    ("usages", "cut"),
    [(["Training"], ["val", "test"]), (["Training", "PrivateTest"], ["val"]),
     (["Training", "PublicTest"], ["test"]), (["Training", "PublicTest", "PrivateTest"], [])],
)  # fmt: skip
def test_a_split_that_a_usage_column_lacks_is_cut_and_said(
    pattlite: Shell, tmp_path: Path, usages: list[str], cut: list[str]
) -> None:
    rows = [face(i % 2, usages[i // 2 % len(usages)], i) for i in range(24)]
    path = write_csv(tmp_path / "fer2013.csv", rows)
    said = pattlite("shards", "create", path, tmp_path / "out", "--val-fraction=0.25")
    assert (said.status, said.err) == (0, "")
    manifest = load_manifest(tmp_path / "out")
    assert all(manifest.samples(split) for split in SPLIT_NAMES)
    told = [line for line in said.out.splitlines() if "the source has none" in line]
    shares = {"val": "0.25", "test": "0.1"}
    assert told == [
        f"{split}: the source has none, so {shares[split]} of the samples was cut from train "
        "(seed 0)" for split in cut
    ]  # fmt: skip


def test_what_was_concluded_passed_over_and_converted_is_said(
    pattlite: Shell, tmp_path: Path
) -> None:
    content = {f"train/{c}/{i}.png": encoded(picture(i, "RGB", (9, 9)))
               for c in ("Happy", "sad") for i in range(4)}  # fmt: skip
    content |= {"train/sad/odd.jpg": encoded(picture(5)), "train/sad/film.mp4": b""}
    content |= {"test/happy/1": encoded(picture(8, "RGB", (9, 9))), "val/sad/2.gif": encoded(9)}
    said = pattlite("shards", "create", write_tree(tmp_path / "a", content), tmp_path / "out")
    assert (said.status, said.err) == (0, "")
    *_, passed, form, train, val, lacks, lacks_too, done = said.out.splitlines()
    assert passed == "passed over, not an image: 1 .mp4 (1 in train/sad)"
    assert form.startswith("images differ in size or mode: the set takes the commonest, 9x9 colour")
    assert train == "train: 1 images were converted to the set's size or mode"
    assert val == "val: 1 images were converted to the set's size or mode"
    assert (lacks, lacks_too) == ("val has no samples of happy", "test has no samples of sad")
    assert done.startswith(f"{tmp_path / 'out'}: finished")


def test_classes_of_any_script_are_printed_on_any_terminal(
    pattlite: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["\u6124\u6012", "\u9ad8\u5174"]
    content = {f"{name}/{i}.png": encoded(picture(i)) for name in names for i in range(8)}
    tree = write_tree(tmp_path / "a", content)
    stream = io.TextIOWrapper(io.BytesIO(), "latin-1")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        assert main(["shards", "create", str(tree), str(tmp_path / "out"), "--jobs=1"]) == 0
        stream.flush()
    assert b"\\u6124\\u6012" in stream.buffer.getvalue()  # type: ignore[attr-defined]
    assert load_manifest(tmp_path / "out").labels == names
    for verb in ("stats", "show"):
        assert pattlite("shards", verb, tmp_path / "out").status == 0
