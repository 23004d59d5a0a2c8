from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from pattlite_dist.data.settings import DataConfig
from pattlite_dist.data.targets import (
    Facts,
    SourceRun,
    Targets,
    given_targets,
    load_targets,
    save_targets,
)
from pattlite_dist.errors import UserError
from tests.data.conftest import ShardSet


def a_file(path: Path, shards: ShardSet, **facts: object) -> Targets:
    manifest = shards.manifest
    rng = np.random.default_rng(0)
    samples, classes = manifest.samples("train"), len(manifest.labels)
    source = SourceRun(run="a", checkpoint="b.ckpt", sha256="0" * 64)
    told: dict[str, object] = {
        "created_by": "a test", "manifest": manifest.fingerprint(), "split": "train",
        "labels": manifest.labels, "view": "flip", "temperature": 1.0, "runs": [source],
        **facts,
    }  # fmt: skip
    shares = rng.dirichlet(np.ones(classes), samples)
    made = Targets(Facts.model_validate(told), shares, np.ones(samples, np.uint8))
    save_targets(path, made)
    return made


def test_what_is_written_is_read_and_rows_sum_to_1(shard_set: ShardSet, tmp_path: Path) -> None:
    path = tmp_path / "soft.safetensors"
    made = a_file(path, shard_set)
    found = given_targets(DataConfig(targets=str(path)), shard_set.manifest)
    assert found is not None and found.facts == made.facts and len(found.sha256) == 64
    assert found.shares == pytest.approx(made.shares, abs=1e-3)
    assert found.shares.dtype == np.float32
    assert found.shares.sum(1) == pytest.approx(1, abs=1e-6)
    assert given_targets(DataConfig(targets="votes"), shard_set.manifest) is None


def test_another_temperature_is_that_of_the_logits(shard_set: ShardSet, tmp_path: Path) -> None:
    made = a_file(tmp_path / "soft.safetensors", shard_set)
    logits = np.log(made.shares)
    soft = np.exp(logits / 4)
    assert made.at(4.0).shares == pytest.approx(soft / soft.sum(1, keepdims=True), abs=1e-6)
    assert made.at(4.0).facts.temperature == 4
    assert made.at(None) is made and made.at(1.0) is made
    assert made.at(4.0).at(1.0).shares == pytest.approx(made.shares, abs=1e-5)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"manifest": "0" * 64}, r"targets of other shards \(fingerprint 00000000, these "),
        ({"split": "val"}, "targets of val, not of train"),
    ],
)
def test_targets_of_something_else_are_refused(
    shard_set: ShardSet, tmp_path: Path, facts: dict[str, object], message: str
) -> None:
    path = tmp_path / "soft.safetensors"
    a_file(path, shard_set, **facts)
    with pytest.raises(UserError, match=message):
        given_targets(DataConfig(targets=str(path)), shard_set.manifest)


def test_a_word_that_is_none_and_files_of_another_kind_are_refused(
    shard_set: ShardSet, tmp_path: Path
) -> None:
    path = tmp_path / "soft.safetensors"
    with pytest.raises(UserError, match=r"data\.targets: vote is not a file; give labels, votes"):
        given_targets(DataConfig(targets="vote"), shard_set.manifest)
    save_file({"a": np.zeros(2)}, path)
    with pytest.raises(UserError, match="is not a file of targets"):
        load_targets(path)
    a_file(path, shard_set)
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(UserError, match="is not a usable file of targets"):
        load_targets(path)
    path.write_bytes(whole[:-200] + b"\xff" * 200)
    with pytest.raises(UserError, match="does not sum to 1"):
        load_targets(path)
