"""A shard set with soft targets, derived from one without."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pattlite_dist.shards.manifest import Manifest, ShardInfo, SplitName
from tests.data.conftest import ShardSet

Targets = dict[SplitName, NDArray[np.float32]]


def with_targets(shards: ShardSet, folder: Path, seed: int = 0) -> tuple[ShardSet, Targets]:
    """Copy the set into `folder`, giving each sample random shares of the classes."""
    folder.mkdir(parents=True)
    rng, classes = np.random.default_rng(seed), len(shards.manifest.labels)
    targets: Targets = {}
    changed: dict[SplitName, list[ShardInfo]] = {}
    for split, infos in shards.manifest.shards.items():
        drawn = rng.dirichlet(np.ones(classes), shards.manifest.samples(split)).round(6)
        rows = iter(drawn.tolist())
        changed[split] = []
        for info in infos:
            stream = io.BytesIO()
            with (
                tarfile.open(shards.folder / info.name) as old,
                tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as new,
            ):
                for member in old:
                    data = old.extractfile(member).read()  # type: ignore[union-attr]
                    if member.name.endswith(".json"):
                        data = json.dumps({**json.loads(data), "target": next(rows)}).encode()
                    member.size = len(data)
                    new.addfile(member, io.BytesIO(data))
            content = stream.getvalue()
            (folder / info.name).write_bytes(content)
            what = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            changed[split].append(info.model_copy(update=what))
        targets[split] = drawn.astype(np.float32)
    options = shards.manifest.options.model_copy(update={"reading": {"target": "soft"}})
    manifest = shards.manifest.model_copy(update={"options": options, "shards": changed})
    Manifest.model_validate(manifest.model_dump()).save(folder)
    return ShardSet(folder, manifest, shards.truth), targets
