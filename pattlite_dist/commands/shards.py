"""`pattlite shards …`: make shards, check them, tell what is in them."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pattlite_dist.console import print_manifest, show_progress

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def create_options(parser: "ArgumentParser") -> None:
    """Options of `shards create`."""
    parser.add_argument("source", type=Path, help="fer2013.csv, plain or .xz, .gz, .zip")
    parser.add_argument("out", type=Path, help="folder for the shards")
    parser.add_argument("--samples-per-shard", type=int, default=2048)
    parser.add_argument("--force", action="store_true", help="replace another set in OUT")


def create(options: Any) -> int:
    """Convert a source into shards."""
    from pattlite_dist.shards.sources import open_source
    from pattlite_dist.shards.writer import create_shards

    source = open_source(options.source)
    with show_progress() as progress:
        manifest = create_shards(
            source,
            options.out,
            samples_per_shard=options.samples_per_shard,
            force=options.force,
            progress=progress,
        )
    print_manifest(manifest)
    print(f"{options.out}: finished, manifest {manifest.fingerprint()[:12]}")
    return 0


def folder_options(parser: "ArgumentParser") -> None:
    """Options of verbs that read a folder of shards."""
    parser.add_argument("dir", type=Path, help="folder of shards")


verify_options = stats_options = folder_options


def verify(options: Any) -> int:
    """Check every shard against the manifest."""
    from pattlite_dist.shards.verify import verify_shards

    with show_progress() as progress:
        manifest, problems = verify_shards(options.dir, progress)
    for problem in problems:
        print(f"pattlite: error: {problem}", file=sys.stderr)
    if problems:
        return 1
    print(f"{options.dir}: {len(manifest.all_shards())} shards, all as the manifest says")
    return 0


def stats(options: Any) -> int:
    """Print how many samples there are."""
    from pattlite_dist.shards.manifest import load_manifest

    print_manifest(load_manifest(options.dir))
    return 0


def faces_options(parser: "ArgumentParser") -> None:
    """Options of `shards faces`."""
    parser.add_argument("out", type=Path, help="CSV file to write")
    parser.add_argument("--train", type=int, default=2000)
    parser.add_argument("--val", type=int, default=400)
    parser.add_argument("--test", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)


def faces(options: Any) -> int:
    """Write generated faces."""
    from pattlite_dist.shards.faces import write_faces

    write_faces(options.out, options.train, options.val, options.test, options.seed)
    print(f"{options.out}: {options.train + options.val + options.test} generated faces")
    return 0
