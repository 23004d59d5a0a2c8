"""A set of twenty samples with every flaw once, and tools to forge its contents."""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pattlite_dist.shards.companions import COMPANION_NAMES
from pattlite_dist.shards.create import create_shards
from pattlite_dist.shards.manifest import Options
from pattlite_dist.shards.sources.registry import open_source
from tests.shards.conftest import CsvRow, pixel_text, random_image, write_csv

PER_SHARD = 5
USAGES = ["Training"] * 12 + ["PublicTest"] * 4 + ["PrivateTest"] * 4
LABELS = [0, 1, 2, 3, 3, 4, 5, 6, 0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 0]
BLANK, NEAR_BLANK = 1, 2
COPY, COPIED = 4, 3  # of one label
CONFLICT, CONFLICTED = 6, 5  # of two labels
LEAK, LEAKED = 12, 0  # in val, of one label
CONFLICT_LEAK, CONFLICT_LEAKED = 17, 7  # in test, of two labels


def flawed_csv(path: Path) -> Path:
    """Write the source."""
    images = [random_image(index) for index in range(20)]
    images[BLANK] = np.full((1, 48, 48), 7, np.uint8)
    images[NEAR_BLANK] = 100 + images[NEAR_BLANK] % 4
    for copy, of in (
        (COPY, COPIED), (CONFLICT, CONFLICTED), (LEAK, LEAKED), (CONFLICT_LEAK, CONFLICT_LEAKED)
    ):  # fmt: skip
        images[copy] = images[of]
    rows = [
        CsvRow(str(label), pixel_text(image), usage)
        for label, image, usage in zip(LABELS, images, USAGES, strict=True)
    ]
    return write_csv(path, rows)


def flawed_set(folder: Path, **options: Any) -> Path:
    """Write the source and its shards into `folder`; returns the shards' folder."""
    source = open_source(flawed_csv(folder / "fer2013.csv"))
    create_shards(source, folder / "set", samples_per_shard=PER_SHARD, options=Options(**options))
    return folder / "set"


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Apply `change` to the manifest's JSON, and remove the files that repeat what it says."""
    for name in COMPANION_NAMES:
        (folder / name).unlink(missing_ok=True)
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_shard(folder: Path, name: str, **changes: Any) -> None:
    """Change the manifest's entry for one shard."""

    def change(content: dict[str, Any]) -> None:
        for shards in content["shards"].values():
            for shard in shards:
                if shard["name"] == name:
                    shard.update(changes)

    edit_manifest(folder, change)


def forge(folder: Path, name: str, change: Callable[[str, bytes], tuple[str, bytes]]) -> None:
    """Apply `change` to each member's name and bytes, and update the manifest to match."""
    stream = io.BytesIO()
    with (
        tarfile.open(folder / name) as old,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as new,
    ):
        for member in old:
            content = old.extractfile(member)
            assert content is not None
            told, data = change(member.name, content.read())
            info = tarfile.TarInfo(told)
            info.size = len(data)
            new.addfile(info, io.BytesIO(data))
    data = stream.getvalue()
    (folder / name).write_bytes(data)
    edit_shard(folder, name, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def forge_facts(folder: Path, name: str, row: int, /, **changes: Any) -> None:
    """Change the JSON of one sample, or of all if `row` is -1; None removes a key."""

    def change(member: str, data: bytes) -> tuple[str, bytes]:
        if not member.endswith(".json") or (row >= 0 and member != f"{row:08d}.json"):
            return member, data
        facts = {**json.loads(data), **changes}
        return member, json.dumps({k: v for k, v in facts.items() if v is not None}).encode()

    forge(folder, name, change)
