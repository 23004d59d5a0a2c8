"""Write shards: survey the source, then write each tar whole, and the manifest last."""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pattlite_dist import __version__
from pattlite_dist.errors import UserError
from pattlite_dist.files import atomic_write, sha256_file
from pattlite_dist.shards.manifest import (
    MANIFEST_NAME,
    SPLIT_NAMES,
    ImageInfo,
    Manifest,
    ShardInfo,
    SourceInfo,
    SplitName,
    load_manifest,
)
from pattlite_dist.shards.sources import Row, Source
from pattlite_dist.shards.survey import Progress, Survey, survey
from pattlite_dist.shards.verify import wrong_sizes


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """PNG bytes of uint8 pixels [C, H, W] with C of 1 (grey) or 3 (RGB)."""
    pixels = image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    # Fixed time, owner and mode: the same samples give the same bytes, whoever writes them.
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o644
    tar.addfile(member, io.BytesIO(data))


def add_sample(tar: tarfile.TarFile, row: Row, facts: dict[str, Any]) -> None:
    """Append one sample as `<key>.png`, `<key>.cls` and `<key>.json`."""
    key = f"{row.index:08d}"
    _add(tar, f"{key}.png", encode_png(row.image))
    _add(tar, f"{key}.cls", str(row.label).encode())
    _add(tar, f"{key}.json", json.dumps(facts, sort_keys=True).encode())


def write_shard(
    path: Path, rows: list[Row], facts: list[dict[str, Any]], classes: int
) -> ShardInfo:
    """Write one tar, whole or not at all, and describe it as it lies on the disk."""
    with (
        atomic_write(path) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for row, fact in zip(rows, facts, strict=True):
            add_sample(tar, row, fact)
    return ShardInfo(
        name=path.name,
        samples=len(rows),
        bytes=path.stat().st_size,
        sha256=sha256_file(path),
        class_counts=np.bincount([row.label for row in rows], minlength=classes).tolist(),
    )


class _ShardSet:
    """The shards of one call: those written so far, and the rows that wait for the next one."""

    def __init__(self, source: Source, folder: Path, samples_per_shard: int) -> None:
        self.source, self.folder, self.size = source, folder, samples_per_shard
        self.shards: dict[SplitName, list[ShardInfo]] = {name: [] for name in SPLIT_NAMES}
        self.waiting: dict[SplitName, list[tuple[Row, dict[str, Any]]]] = {
            name: [] for name in SPLIT_NAMES
        }
        self.written: list[Path] = []

    def add(self, row: Row, facts: dict[str, Any]) -> None:
        self.waiting[row.split].append((row, facts))
        if len(self.waiting[row.split]) == self.size:
            self.flush(row.split)

    def flush(self, split: SplitName) -> None:
        if not self.waiting[split]:
            return
        rows, facts = (list(part) for part in zip(*self.waiting[split], strict=True))
        path = self.folder / f"{split}-{len(self.shards[split]):06d}.tar"
        self.written.append(path)
        self.shards[split].append(write_shard(path, rows, facts, len(self.source.labels)))
        self.waiting[split] = []


def _write_all(source: Source, found: Survey, target: _ShardSet, progress: Progress) -> None:
    leaks = found.leaks()
    for row in source.rows():
        index = row.index
        if index >= len(found.digests) or (
            hashlib.sha256(row.image.tobytes()).digest() != found.digests[index]
        ):
            raise _changed(source)
        if not (found.blank[index] and row.split == "train"):
            facts = {
                "row": index,
                "split": row.split,
                "label": source.labels[row.label],
                "blank": found.blank[index],
                "leak": leaks[index],
            }
            target.add(row, facts)
        progress("write", index + 1, len(found.digests))
    for split in SPLIT_NAMES:
        target.flush(split)


def _changed(source: Source) -> UserError:
    return UserError(f"{source.name} changed while it was read; run the command again")


def create_shards(
    source: Source,
    folder: Path,
    *,
    samples_per_shard: int = 2048,
    force: bool = False,
    progress: Progress = lambda what, done, total: None,
) -> Manifest:
    """Convert a source into shards and return their manifest.

    Blank images are left out of train, and kept and flagged in val and test, so that scores stay
    comparable with the literature. The whole source is checked before anything is written; if
    writing fails, what this call wrote is removed.

    Raises:
        UserError: the source is bad, the folder cannot be written, or it holds another set.
    """
    if samples_per_shard < 1:
        raise UserError(f"--samples-per-shard is {samples_per_shard}; give 1 or more")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; give a folder for the shards")
    there = load_manifest(folder) if (folder / MANIFEST_NAME).exists() and not force else None
    found = survey(source, progress)
    info = SourceInfo(
        kind=source.kind, name=source.name, sha256=source.sha256, rows=len(found.splits)
    )
    if there is not None:
        if there.source != info or there.samples_per_shard != samples_per_shard:
            raise UserError(
                f"{folder} holds another shard set (made from {there.source.name}, "
                f"{there.source.rows} rows); choose another folder or replace it with --force"
            )
        if not wrong_sizes(folder, there.all_shards()):
            return there
    new_folder = not folder.exists()
    try:
        (folder / MANIFEST_NAME).unlink(missing_ok=True)  # from here on the set is unfinished
    except OSError as error:
        raise UserError(
            f"cannot replace {folder / MANIFEST_NAME}: {error.strerror or error}; choose a folder "
            "that can be written"
        ) from error
    target = _ShardSet(source, folder, samples_per_shard)
    try:
        _write_all(source, found, target, progress)
        if source.sha256 != info.sha256:  # fewer rows, or a label or split that is another now
            raise _changed(source)
        channels, height, width = source.shape
        manifest = Manifest(
            created_by=f"pattlite_dist {__version__}",
            source=info,
            labels=list(source.labels),
            image=ImageInfo(channels=cast(Any, channels), height=height, width=width),
            samples_per_shard=samples_per_shard,
            shards=target.shards,
            findings=found.findings(),
        )
        manifest.save(folder)
    except BaseException:
        for path in [folder / MANIFEST_NAME, *target.written]:
            path.unlink(missing_ok=True)
        if new_folder and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        raise
    _remove_stale(folder, manifest)
    return manifest


def _remove_stale(folder: Path, manifest: Manifest) -> None:
    """Remove shards of an earlier, longer set, which the manifest no longer names."""
    named = {shard.name for shard in manifest.all_shards()}
    for split in SPLIT_NAMES:
        for path in folder.glob(f"{split}-[0-9][0-9][0-9][0-9][0-9][0-9].tar"):
            if path.name not in named:
                path.unlink()
