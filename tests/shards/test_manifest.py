import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pattlite_dist.errors import UserError
from pattlite_dist.evaluation.findings import flaws
from pattlite_dist.shards.manifest import (
    SPLIT_NAMES,
    Manifest,
    Options,
    load_manifest,
    parse_manifest,
)

Content = dict[str, Any]


def content() -> Content:
    """A valid manifest of two classes, as parsed JSON."""

    def shard(name: str, digit: str, counts: list[int]) -> Content:
        return {
            "name": name,
            "samples": sum(counts),
            "bytes": 20480,
            "sha256": digit * 64,
            "class_counts": counts,
        }

    return {
        "format": "pattlite-shards",
        "version": 1,
        "created_by": "pattlite_dist 0.1.0",
        "source": {"kind": "stub", "name": "stub", "sha256": "f" * 64, "rows": 9},
        "labels": ["cat", "dog"],
        "image": {"channels": 1, "height": 4, "width": 6},
        "samples_per_shard": 4,
        "shards": {
            "train": [
                shard("train-000000.tar", "1", [1, 3]),
                shard("train-000001.tar", "2", [2, 0]),
            ],
            "val": [shard("val-000000.tar", "3", [0, 2])],
            "test": [],
        },
        "findings": {
            "train": {"blank_rows": [8], "dropped_rows": [8], "leaks": 0},
            "val": {"blank_rows": [], "dropped_rows": [], "leaks": 1},
            "test": {"blank_rows": [], "dropped_rows": [], "leaks": 0},
        },
    }


def parse(tree: Content) -> Manifest:
    return parse_manifest(json.dumps(tree).encode(), "some/manifest.json")


def edited(edit: Callable[[Content], object]) -> Content:
    tree = content()
    edit(tree)
    return tree


def refusal(text: bytes) -> str:
    with pytest.raises(UserError) as caught:
        parse_manifest(text, "some/manifest.json")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("some/manifest.json")
    assert message.endswith("; create the shards again")
    return message


def test_a_manifest_survives_the_disk(tmp_path: Path) -> None:
    manifest = parse(content())
    manifest.save(tmp_path / "new")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["manifest.json"]
    assert load_manifest(tmp_path / "new") == manifest
    _check_within(content(), json.loads((tmp_path / "new" / "manifest.json").read_bytes()))


def _check_within(old: object, new: object) -> None:
    """A version 1 manifest, written again, keeps everything and gains more."""
    if isinstance(old, dict):
        assert isinstance(new, dict)
        for key in old:
            _check_within(old[key], new[key])
    else:
        assert new == old


def test_a_new_manifest_has_more_than_one_of_version_1() -> None:
    assert Manifest.model_fields["version"].default == 2
    manifest = parse(content())
    assert manifest.version == 1
    assert (manifest.identical, manifest.votes, manifest.options) == (None, [], Options())
    assert manifest.findings["train"].near_blank_rows == []
    assert manifest.source.left_out == {}
    more = {"votes": ["a"], "options": {"seed": 3}, "version": 2}
    assert parse({**content(), **more}).options.seed == 3


def test_samples_and_classes_are_summed_over_the_shards() -> None:
    manifest = parse(content())
    assert [manifest.samples(split) for split in ("train", "val", "test")] == [6, 2, 0]
    assert manifest.class_counts("train") == [3, 3]
    assert manifest.class_counts("val") == [0, 2]
    assert manifest.class_counts("test") == [0, 0]
    assert manifest.image.shape == (1, 4, 6)


def test_a_split_may_be_missing() -> None:
    manifest = parse(edited(lambda tree: tree["shards"].pop("test")))
    assert manifest.samples("test") == 0
    assert manifest.class_counts("test") == [0, 0]


def test_a_manifest_cannot_be_changed_by_mistake() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        parse(content()).samples_per_shard = 7


@pytest.mark.parametrize("key", ["extra", "Version", "shard"])
def test_an_unknown_key_is_refused(key: str) -> None:
    message = refusal(json.dumps({**content(), key: 1}).encode())
    assert f": {key}: Extra inputs are not permitted" in message


@pytest.mark.parametrize(
    ("edit", "where"),
    [
        (lambda t: t["shards"]["train"][0].update(url="x"), "shards.train.0.url"),
        (lambda t: t["source"].update(url="x"), "source.url"),
        (lambda t: t["image"].update(dtype="x"), "image.dtype"),
        (lambda t: t["findings"]["val"].update(bad=[]), "findings.val.bad"),
        (lambda t: t["shards"].update(valid=[]), "shards.valid"),
        (lambda t: t.update(version=3), "version"),
        (lambda t: t.update(version="1"), "version"),
        (lambda t: t.update(format="other"), "format"),
        (lambda t: t.update(labels=["one"]), "labels"),
        (lambda t: t.update(labels="cat"), "labels"),
        (lambda t: t.update(samples_per_shard=0), "samples_per_shard"),
        (lambda t: t["image"].update(channels=2), "image.channels"),
        (lambda t: t["image"].update(height=0), "image.height"),
        (lambda t: t["shards"]["train"][1].update(samples=0), "shards.train.1.samples"),
        (lambda t: t["shards"]["train"][1].update(bytes=0), "shards.train.1.bytes"),
        (lambda t: t["shards"]["train"][1].update(bytes="many"), "shards.train.1.bytes"),
        (lambda t: t["shards"]["val"][0].update(sha256="3" * 63), "shards.val.0.sha256"),
        (lambda t: t["shards"]["val"][0].update(sha256="G" * 64), "shards.val.0.sha256"),
        (lambda t: t.pop("shards"), "shards"),
        (lambda t: t.pop("created_by"), "created_by"),
        (lambda t: t["shards"]["val"][0].pop("class_counts"), "shards.val.0.class_counts"),
    ],
)
def test_a_bad_value_is_refused_with_its_place(
    edit: Callable[[Content], object], where: str
) -> None:
    message = refusal(json.dumps(edited(edit)).encode())
    assert message.startswith(f"some/manifest.json: {where}")


@pytest.mark.parametrize(
    "name",
    [
        "a/train-000000.tar",
        "/train-000000.tar",
        "../train-000000.tar",
        "../../etc/passwd",
        "..",
        "..tar",
        ".tar",
        ".hidden.tar",
        "a..tar",
        "a\\b.tar",
        "train-000000.tar\n",
        "train 0.tar",
        "train-{000000..000009}.tar",
        "pipe:cat.tar|",
        "http:evil.tar",
        "train-000000.tgz",
        "",
    ],
)
def test_a_shard_name_that_is_more_than_a_name_is_refused(name: str) -> None:
    tree = edited(lambda t: t["shards"]["train"][0].update(name=name))
    assert ": shards.train.0.name: " in refusal(json.dumps(tree).encode())


@pytest.mark.parametrize("name", ["train-000000.tar", "a.b-c_D.9.tar", "0.tar"])
def test_plain_shard_names_are_taken(name: str) -> None:
    tree = edited(lambda t: t["shards"]["train"][0].update(name=name))
    assert parse(tree).shards["train"][0].name == name


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"manifest",
        b"\xff\xfe",
        b"{'format': 1}",
        b"[" * 100_000,
        json.dumps(content()).encode()[:-1],
    ],
)
def test_what_is_not_json_is_refused(text: bytes) -> None:
    assert "is not JSON" in refusal(text)


@pytest.mark.parametrize("text", [b"[]", b"null", b"1", b'"manifest"', b"{}"])
def test_json_that_is_no_manifest_is_refused(text: bytes) -> None:
    refusal(text)


@pytest.mark.parametrize(
    ("samples", "counts"),
    [(4, [1, 2]), (4, [1, 4]), (5, [1, 3]), (4, [4]), (4, [1, 3, 0]), (4, []), (4, [5, -1])],
)
def test_counts_that_do_not_add_up_are_refused(samples: int, counts: list[int]) -> None:
    tree = edited(lambda t: t["shards"]["train"][0].update(samples=samples, class_counts=counts))
    message = refusal(json.dumps(tree).encode())
    assert f"train-000000.tar has {samples} samples but class counts {counts}" in message


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"image": {"channels": 1, "height": 2**24, "width": 2**24}}, "image.height: Input should"),
        ({"image": {"channels": 3, "height": 2**20, "width": 2}}, "too few for 4 images of 2x1048"),
        ({"samples": 10**30}, "shards.train.0.samples: Input should be less than"),
        ({"samples": 2**40, "bytes": 2**50}, "too few for 1,099,511,627,776 images of 6x4"),
        ({"bytes": 10**30}, "shards.train.0.bytes: Input should be less than"),
        ({"rows": [-1]}, "findings.train.blank_rows.0: Input should be greater"),
        ({"rows": [10**30]}, "findings.train.blank_rows.0: Input should be less"),
    ],
)
def test_sizes_that_no_shard_can_have_are_one_line(change: dict[str, Any], told: str) -> None:
    def edit(tree: Content) -> None:
        shard = tree["shards"]["train"][0]
        shard.update({key: value for key, value in change.items() if key in shard})
        shard["class_counts"] = [0, shard["samples"]]
        tree["image"] = change.get("image", tree["image"])
        tree["findings"]["train"]["blank_rows"] = change.get("rows", [])

    assert told in refusal(json.dumps(edited(edit)).encode())


def test_findings_may_be_missing_for_any_split_as_the_schema_says() -> None:
    for findings in ({}, {"test": {}}, {"val": {"leaks": 1}}):
        manifest = parse(edited(lambda tree, found=findings: tree.update(findings=found)))  # type: ignore[misc]
        assert sorted(manifest.findings) == ["test", "train", "val"]
        assert [flaws(manifest, split).samples for split in SPLIT_NAMES[:2]] == [6, 2]


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_shard_named_twice_is_refused(split: str) -> None:
    def edit(tree: Content) -> None:
        tree["shards"][split].append(tree["shards"]["train"][0])

    message = refusal(json.dumps(edited(edit)).encode())
    assert "train-000000.tar is named twice" in message


def test_the_fingerprint_leaves_out_who_made_the_set_and_from_what() -> None:
    def edit(tree: Content) -> None:
        tree["created_by"] = "somebody else"
        tree["source"] = {"kind": "other", "name": "other", "sha256": "e" * 64, "rows": 10}
        tree["findings"]["train"]["blank_rows"] = []
        for index, shard in enumerate(shard for part in tree["shards"].values() for shard in part):
            shard["name"] = f"other-{index}.tar"

    assert parse(edited(edit)).fingerprint() == parse(content()).fingerprint()


def test_the_fingerprint_does_not_depend_on_the_order_of_keys() -> None:
    def edit(tree: Content) -> None:
        tree["shards"] = dict(reversed(tree["shards"].items()))

    assert parse(edited(edit)).fingerprint() == parse(content()).fingerprint()


def _swap_shards(tree: Content) -> None:
    tree["shards"]["train"].reverse()


def _move_shard(tree: Content) -> None:
    tree["shards"]["val"].append(tree["shards"]["train"].pop())


@pytest.mark.parametrize(
    "edit",
    [
        lambda t: t["shards"]["train"][1].update(sha256="4" * 64),
        lambda t: t["shards"]["val"][0].update(sha256="4" * 64),
        _swap_shards,
        _move_shard,
        lambda t: t["shards"]["train"].pop(),
        lambda t: t.update(labels=["dog", "cat"]),
        lambda t: t["image"].update(height=6, width=4),
    ],
)
def test_the_fingerprint_changes_with_the_data(edit: Callable[[Content], object]) -> None:
    fingerprint = parse(edited(edit)).fingerprint()
    assert len(fingerprint) == 64
    assert fingerprint != parse(content()).fingerprint()


@pytest.mark.parametrize("there", ["folder", "file", "nothing"])
def test_a_missing_manifest_is_told_with_the_way_to_make_one(tmp_path: Path, there: str) -> None:
    folder = tmp_path / "out"
    if there == "folder":
        folder.mkdir()
    elif there == "file":
        folder.write_text("something")
    with pytest.raises(UserError) as caught:
        load_manifest(folder)
    assert str(caught.value) == (
        f"{folder} is not a finished shard set: it has no manifest.json; create one with "
        f"`pattlite shards create SOURCE {folder}`"
    )


def test_a_manifest_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(UserError, match=r"cannot read .*manifest\.json.*; check its permissions"):
        load_manifest(tmp_path)


def test_the_message_of_a_bad_manifest_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json is not JSON") as caught:
        load_manifest(tmp_path)
    assert str(tmp_path / "manifest.json") in str(caught.value)
