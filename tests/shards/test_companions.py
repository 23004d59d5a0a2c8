"""What other programs read beside the shards; see also test_create.py."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pattlite_dist.errors import UserError
from pattlite_dist.shards.companions import COMPANION_NAMES, companions, is_ours, outdated
from pattlite_dist.shards.create import create_shards
from pattlite_dist.shards.manifest import load_manifest
from pattlite_dist.shards.sources.registry import open_source
from pattlite_dist.shards.target import Folder
from pattlite_dist.shards.verify import verify_shards
from tests.shards.conftest import TINY_OPTIONS, TINY_PER_SHARD, TINY_SHARDS, snapshot
from tests.sources import ArraySource

HEAD = "---\n"


def front_matter(folder: Path) -> Any:
    return yaml.safe_load((folder / "README.md").read_text().split(HEAD)[1])


def again(source: Path, out: Path, **options: Any) -> None:
    options = {"samples_per_shard": TINY_PER_SHARD, "options": TINY_OPTIONS, **options}
    create_shards(open_source(source), out, **options)


def test_timm_finds_the_shards_and_samples_of_each_split(tiny_shards: Path) -> None:
    splits = json.loads((tiny_shards / "_info.json").read_text())["splits"]
    assert list(splits) == ["train", "val", "test"]
    for name, split in splits.items():
        expected = {n: count for n, count in TINY_SHARDS.items() if n.startswith(name)}
        assert dict(zip(split["filenames"], split["shard_lengths"], strict=True)) == expected
        assert split["num_samples"] == sum(expected.values()) and split["name"] == name


def test_open_clip_finds_the_samples_of_each_shard(tiny_shards: Path) -> None:
    assert json.loads((tiny_shards / "sizes.json").read_text()) == TINY_SHARDS


def test_the_hub_finds_splits_and_the_names_of_the_classes(tiny_shards: Path) -> None:
    told = front_matter(tiny_shards)
    (config,) = told["configs"]
    files = {part["split"]: part["path"] for part in config["data_files"]}
    assert list(files) == ["train", "validation", "test"]
    assert [name for names in files.values() for name in names] == list(TINY_SHARDS)
    features = {feature["name"]: feature for feature in told["dataset_info"]["features"]}
    names = features["cls"]["dtype"]["class_label"]["names"]
    assert list(names.values()) == load_manifest(tiny_shards).labels
    facts = {fact["name"] for fact in features["json"]["struct"]}
    assert facts <= {"row", "split", "label", "blank", "near_blank", "leak", "copies", "conflict"}


@pytest.mark.parametrize("name", ["no", "1", "a: b", "'", '"', "#x", "高兴", "- a"])
def test_any_name_of_a_class_is_text_in_the_card(
    tiny_shards: Path, tmp_path: Path, name: str
) -> None:
    manifest = load_manifest(tiny_shards)
    odd = manifest.model_copy(update={"labels": [name, *manifest.labels[1:]]})
    (tmp_path / "README.md").write_bytes(companions(odd)["README.md"])
    features = front_matter(tmp_path)["dataset_info"]["features"]
    assert features[1]["dtype"]["class_label"]["names"]["0"] == name


def test_a_split_without_samples_is_not_named(tmp_path: Path) -> None:
    import numpy as np

    images = np.random.default_rng(0).integers(0, 256, (3, 1, 8, 8), dtype=np.uint8)
    source = ArraySource(images, [0, 1, 0], ["train", "train", "val"], ("a", "b"), cut=())
    create_shards(source, tmp_path)
    assert list(json.loads((tmp_path / "_info.json").read_text())["splits"]) == ["train", "val"]
    assert len(front_matter(tmp_path)["configs"][0]["data_files"]) == 2


def test_what_is_missing_or_outdated_is_written_by_the_same_command(
    tiny_csv: Path, shard_copy: Path
) -> None:
    expected = snapshot(shard_copy)
    (shard_copy / "_info.json").unlink()
    (shard_copy / "sizes.json").write_text("{}")
    assert outdated(shard_copy, load_manifest(shard_copy)) == ["sizes.json"]
    (problem,) = verify_shards(shard_copy)[1]
    assert "sizes.json does not match the manifest" in problem.line
    again(tiny_csv, shard_copy)
    assert snapshot(shard_copy) == expected and verify_shards(shard_copy)[1] == []


def test_a_card_that_the_user_has_written_is_kept(tiny_csv: Path, shard_copy: Path) -> None:
    (shard_copy / "README.md").write_text("mine")
    for force in (False, True):
        again(tiny_csv, shard_copy, force=force)
        assert (shard_copy / "README.md").read_text() == "mine"
    assert verify_shards(shard_copy)[1] == []
    assert not is_ours("README.md", b"mine") and is_ours("sizes.json", b"mine")


def test_a_set_without_them_is_whole(shard_copy: Path) -> None:
    for name in COMPANION_NAMES:
        (shard_copy / name).unlink()
    assert verify_shards(shard_copy)[1] == []


def test_what_cannot_be_read_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "sizes.json").mkdir()
    with pytest.raises(UserError, match=r"cannot read .*sizes\.json"):
        Folder(tmp_path).content("sizes.json")
    assert Folder(tmp_path).content("_info.json") is None
