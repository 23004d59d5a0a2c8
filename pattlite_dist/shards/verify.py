"""Check a shard set against its manifest, and tell what is in it."""

from pathlib import Path

from pattlite_dist.errors import UserError
from pattlite_dist.shards.manifest import SPLIT_NAMES, Findings, Manifest, ShardInfo, load_manifest
from pattlite_dist.shards.survey import Progress
from pattlite_dist.shards.tario import decode_shard


def verify_shards(
    folder: Path, progress: Progress = lambda what, done, total: None
) -> tuple[Manifest, list[str]]:
    """Check sizes, hashes, counts and every image.

    Returns:
        The manifest and one line for each bad shard; no lines when all is well.

    Raises:
        UserError: there is no readable manifest.
    """
    manifest = load_manifest(folder)
    shards = [shard for split in SPLIT_NAMES for shard in manifest.shards.get(split, [])]
    problems: list[str] = []
    for done, shard in enumerate(shards):
        path = folder / shard.name
        try:
            decode_shard(read_shard_file(path), shard, manifest.image, str(path))
        except UserError as error:
            problems.append(str(error))
        progress("verify", done + 1, len(shards))
    return manifest, problems


def wrong_sizes(folder: Path, shards: list[ShardInfo]) -> list[str]:
    """One line for each shard that is missing or has another size; looks inside none."""
    lines = []
    for shard in shards:
        path = folder / shard.name
        size = path.stat().st_size if path.is_file() else None
        if size != shard.bytes:
            found = "is missing" if size is None else f"has {size} bytes"
            lines.append(
                f"{path} {found}, its manifest says {shard.bytes} bytes; create the shards again"
            )
    return lines


def read_shard_file(path: Path) -> bytes:
    """The bytes of a local shard, or a `UserError` that names it."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing though its manifest names it; create the shards again"
        ) from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check its permissions") from error


def class_table(manifest: Manifest) -> list[list[str]]:
    """Rows of a table by split and class, header first."""
    rows = [["split", *manifest.labels, "all", "shards", "blank", "dropped", "leaks"]]
    for split in SPLIT_NAMES:
        findings = manifest.findings.get(split, Findings())
        counts = [*manifest.class_counts(split), manifest.samples(split)]
        extra = [
            len(manifest.shards.get(split, [])),
            len(findings.blank_rows),
            len(findings.dropped_rows),
            findings.leaks,
        ]
        rows.append([split, *(f"{number:,}" for number in [*counts, *extra])])
    return rows
