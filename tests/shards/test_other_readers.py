"""A set as other programs read it: timm, and Hugging Face datasets."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pattlite_dist.shards.manifest import SPLIT_NAMES, load_manifest
from pattlite_dist.shards.tario import decode_shard
from pattlite_dist.shards.verify import read_shard_file
from tests.conftest import environment

# In a process of their own: both change what they import. Each prints [pixels, label] by split.
READ = """
import hashlib, json, sys
import numpy as np
def facts(picture, label):
    return [hashlib.md5(np.asarray(picture.convert("L")).tobytes()).hexdigest(), int(label)]
def by_timm(folder):
    from timm.data import create_dataset
    found = {}
    for split in ("train", "val", "test"):
        data = create_dataset("wds/set", root=folder, split=split, is_training=False, batch_size=1)
        found[split] = [facts(*sample) for sample in data]
    return found
def by_datasets(folder):
    import datasets
    sets = datasets.load_dataset(folder)
    names = {"train": "train", "val": "validation", "test": "test"}
    assert sets["train"].features["cls"].names == sys.argv[3:]
    return {
        split: [facts(row["png"], row["cls"]) for row in sets[name]]
        for split, name in names.items()
    }
json.dump({"timm": by_timm, "datasets": by_datasets}[sys.argv[1]](sys.argv[2]), sys.stdout)
"""


def truth(folder: Path) -> dict[str, list[Any]]:
    manifest = load_manifest(folder)
    found: dict[str, list[Any]] = {}
    for split in SPLIT_NAMES:
        found[split] = []
        for shard in manifest.shards[split]:
            data = read_shard_file(folder / shard.name)
            block = decode_shard(data, shard, manifest.image, shard.name)
            found[split] += [
                [hashlib.md5(image.tobytes()).hexdigest(), int(label)]
                for image, label in zip(block.images, block.labels, strict=True)
            ]
    return found


@pytest.mark.parametrize("program", ["timm", "datasets"])
def test_it_finds_each_split_with_every_sample(
    program: str, tiny_shards: Path, tmp_path: Path
) -> None:
    labels = load_manifest(tiny_shards).labels
    done = subprocess.run(
        [sys.executable, "-c", READ, program, str(tiny_shards), *labels],
        env=environment(HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1"),
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found, expected = json.loads(done.stdout), truth(tiny_shards)
    assert {split: sorted(rows) for split, rows in found.items()} == {
        split: sorted(rows) for split, rows in expected.items()
    }
