from pathlib import Path
from typing import Any

import pytest

from pattlite_dist.shards.manifest import Identical, Manifest, Options, load_manifest
from pattlite_dist.shards.stats import other_options, remarks, set_table
from tests.shards.flawed import flawed_set


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return load_manifest(flawed_set(tmp_path_factory.mktemp("flawed")))


def with_findings(manifest: Manifest, split: Any, **found: Any) -> Manifest:
    changed = manifest.findings[split].model_copy(update=found)
    return manifest.model_copy(update={"findings": {**manifest.findings, split: changed}})


def test_the_table_tells_classes_and_findings_by_split(manifest: Manifest) -> None:
    assert set_table(manifest) == [
        ["class", "train", "%", "val", "%", "test", "%", "all", "%"],
        ["angry", "2", "16.7", "1", "25.0", "1", "25.0", "4", "20.0"],
        ["disgust", "2", "16.7", "1", "25.0", "0", "0.0", "3", "15.0"],
        ["fear", "2", "16.7", "1", "25.0", "0", "0.0", "3", "15.0"],
        ["happy", "3", "25.0", "1", "25.0", "0", "0.0", "4", "20.0"],
        ["sad", "1", "8.3", "0", "0.0", "1", "25.0", "2", "10.0"],
        ["surprise", "1", "8.3", "0", "0.0", "1", "25.0", "2", "10.0"],
        ["neutral", "1", "8.3", "0", "0.0", "1", "25.0", "2", "10.0"],
        [],
        ["samples", "12", "", "4", "", "4", "", "20", ""],
        ["shards", "3", "", "1", "", "1", "", "5", ""],
        [],
        ["blank", "1", "", "0", "", "0", "", "1", ""],
        ["near blank", "1", "", "0", "", "0", "", "1", ""],
        ["left out", "0", "", "0", "", "0", "", "0", ""],
        ["leaks", "0", "", "1", "", "1", "", "2", ""],
        ["copies", "2", "", "0", "", "0", "", "2", ""],
        ["conflicts", "3", "", "0", "", "1", "", "4", ""],
    ]


def test_what_was_left_out_is_counted_as_left_out_and_not_as_blank(tmp_path: Path) -> None:
    table = set_table(load_manifest(flawed_set(tmp_path, blanks="drop")))
    rows = {row[0]: row[1:3] for row in table if row}
    assert rows["blank"] == rows["near blank"] == ["0", ""]
    assert rows["left out"] == ["2", ""]


def test_what_the_first_version_did_not_look_for_is_not_called_none(manifest: Manifest) -> None:
    rows = {row[0]: row[1:] for row in set_table(manifest.model_copy(update={"version": 1})) if row}
    for name in ("near blank", "copies", "conflicts"):
        assert rows[name] == ["-", ""] * 4
    assert rows["leaks"] == ["0", "", "1", "", "1", "", "2", ""]


def test_the_table_of_a_set_without_a_split_counts_nothing_there(manifest: Manifest) -> None:
    train = {"shards": {"train": manifest.shards["train"]}, "findings": {}}
    for row in set_table(manifest.model_copy(update=train))[1:]:
        assert set(row[3:7]) <= {"0", "0.0", ""}


def test_remarks_tell_where_a_set_comes_from_and_what_is_odd_about_it(manifest: Manifest) -> None:
    first, *others = remarks(manifest)
    assert first.startswith("48x48 grey, from 20 samples of fer2013.csv (fer2013-csv, sha256 ")
    assert manifest.created_by in first
    assert first.endswith(f"fingerprint {manifest.fingerprint()[:12]}")
    assert others == [
        "train has 3.0 times as many samples of happy as of sad",
        "val has no samples of sad, surprise, neutral",
        "test has no samples of disgust, fear, happy",
        "identical images in the source: 8 samples share 4 images; "
        "labels differ for 2 of them (4 samples)",
    ]


def test_remarks_tell_what_was_left_out_and_why(manifest: Manifest) -> None:
    source = manifest.source.model_copy(update={"left_out": {"no majority": 1200, "no label": 3}})
    changed = with_findings(
        manifest, "train", dropped_rows=[1, 2, 8, 9, 10], blank_rows=[1], near_blank_rows=[2]
    ).model_copy(update={"source": source})
    told = remarks(changed)
    assert "skipped in the source: 1,200 (no majority), 3 (no label)" in told
    assert "left out of train: 1 blank, 1 near blank, 3 with a copy in val or test" in told


def test_remarks_tell_of_votes_conversion_and_an_empty_split(manifest: Manifest) -> None:
    changed = with_findings(manifest, "test", converted=1234).model_copy(
        update={
            "votes": ["neutral", "happiness"],
            "shards": {**manifest.shards, "val": []},
            "identical": Identical(
                distinct=5, groups=0, copies=0, conflicting_groups=0, conflicting_samples=0
            ),
        }
    )
    told = "\n".join(remarks(changed))
    assert "test: 1,234 images were converted from another size or mode" in told
    assert "each sample's JSON contains votes: neutral, happiness" in told
    assert "val has no samples" in told
    assert "identical images" not in told


def test_what_the_source_had_besides_is_in_the_table(manifest: Manifest) -> None:
    source = manifest.source.model_copy(update={"left_out": {"damaged": 1200, "no label": 3}})
    rows = set_table(manifest.model_copy(update={"source": source}))
    assert rows[:-3] == set_table(manifest)
    assert rows[-3:] == [
        [], ["damaged", *[""] * 6, "1,200", ""], ["no label", *[""] * 6, "3", ""],
    ]  # fmt: skip


def test_only_options_other_than_the_default_are_told(tmp_path: Path) -> None:
    assert other_options(Options()) == []
    options = Options(
        blanks="drop", val_fraction=0.2, seed=3, reading={"unlabelled": "skip", "image_size": "48"}
    )
    told = ["--unlabelled skip", "--image-size 48", "--blanks drop", "--val-fraction 0.2"]
    assert other_options(options) == [*told, "--seed 3"]
    folder = flawed_set(tmp_path, blanks="drop")
    assert remarks(load_manifest(folder))[-1] == "created with --blanks drop"
    assert "left out of train: 1 blank, 1 near blank" in remarks(load_manifest(folder))
