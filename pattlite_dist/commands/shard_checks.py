"""`pattlite shards verify|stats|show`: commands for a finished shard set."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pattlite_dist.console import show_progress
from pattlite_dist.errors import UserError, first_problem

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from pattlite_dist.data.fetch import Origin
    from pattlite_dist.shards.manifest import Manifest
    from pattlite_dist.shards.sources.base import Reading

_DIR = "folder of shards, or an address such as https:// or s3://"


def verify_options(parser: "ArgumentParser") -> None:
    """Options of `shards verify`."""
    from pattlite_dist.location import Location
    from pattlite_dist.runtime.limits import cores

    parser.add_argument("dir", help=_DIR)
    parser.add_argument("--jobs", type=int, default=cores(), help="processes")
    parser.add_argument(
        "--repair", type=Location, metavar="SOURCE", help="rewrite bad shards from their source"
    )
    parser.add_argument("--votes", type=Path, help="fer2013new.csv, if the set has votes")


def verify(options: Any) -> int:
    """Check every shard against the manifest; rewrite the bad ones if a source is given."""
    from pattlite_dist.shards.verify import check_shards, stray_shards

    origin, manifest = _opened(options.dir)
    if options.repair is None and options.votes is not None:
        raise UserError("--votes is used only with --repair SOURCE; leave it out")
    if options.repair is not None and not origin.local:
        raise UserError(f"--repair needs a local folder, and {options.dir} is not; copy it first")
    folder = Path(origin.root)
    with show_progress() as progress:
        problems = check_shards(origin, manifest, options.jobs, progress)
    bad = [problem.name for problem in problems if problem.name]
    if bad and options.repair is not None:
        _repair(folder, manifest, bad, options)
        with show_progress() as progress:
            problems = check_shards(origin, manifest, options.jobs, progress)
        print(f"{options.dir}: rewrote {', '.join(bad)} from the source")
    if origin.local:
        problems = [*problems, *stray_shards(folder, manifest)]
    for problem in problems:
        print(f"pattlite: error: {problem.line}", file=sys.stderr)
    if problems:
        return 1
    print(
        f"{options.dir}: {len(manifest.all_shards())} shards, "
        f"{sum(map(manifest.samples, manifest.shards)):,} samples, all match the manifest"
    )
    return 0


def _repair(folder: Path, manifest: "Manifest", names: list[str], options: Any) -> None:
    from dataclasses import replace

    from pattlite_dist.data.foreign import fetch_file
    from pattlite_dist.shards.create import rewrite
    from pattlite_dist.shards.sources.ferplus_folders import KIND as OWN_VOTES
    from pattlite_dist.shards.sources.registry import kind_of, open_source

    if manifest.votes and manifest.source.kind != OWN_VOTES and options.votes is None:
        raise UserError(
            f"{folder} contains votes from a second file; give that file with --votes FILE"
        )
    reading = reading_of(manifest.options.reading, options.votes)
    reading = replace(reading, kind=kind_of(manifest.source.kind, options.repair))
    source = open_source(options.repair, reading, fetch_file)
    with show_progress() as progress:
        rewrite(source, folder, names, options.jobs, progress)


def reading_of(words: dict[str, str], votes: Path | None) -> "Reading":
    """How a set's source was read, from the strings in its manifest.

    Raises:
        UserError: this version does not know one of them.
    """
    from pydantic import TypeAdapter, ValidationError

    from pattlite_dist.shards.sources.base import Reading

    said: dict[str, Any] = {
        name: int(word) if word.isdecimal() and not name.endswith("_column") else word
        for name, word in words.items()
    }
    unknown = sorted(set(said) - set(Reading.__dataclass_fields__))
    try:
        if unknown:
            raise ValueError(f"unknown: {', '.join(unknown)}")
        return TypeAdapter(Reading).validate_python({**said, "votes": votes})
    except ValidationError as error:
        where, first = first_problem(error)
        reason = f"{where}: {first['msg']}"
    except ValueError as error:
        reason = str(error)
    raise UserError(
        f"this version cannot read the source as the manifest requires ({reason}); use the version "
        "that created the set"
    )


def stats_options(parser: "ArgumentParser") -> None:
    """Options of `shards stats`."""
    parser.add_argument("dir", help=_DIR)
    parser.add_argument("--picture", type=Path, help="PNG file to draw (default: DIR/classes.png)")


def stats(options: Any) -> int:
    """Print what is in a set and plot its class balance."""
    from pattlite_dist.shards.pictures import draw_classes
    from pattlite_dist.shards.stats import print_manifest, remarks

    origin, manifest = _opened(options.dir)
    picture = _picture(origin, options.picture, "classes.png")
    print_manifest(manifest)
    print("\n".join(remarks(manifest)))
    if not manifest.all_shards():
        print(f"{options.dir}: no samples, so no picture")
        return 0
    draw_classes(manifest, picture)
    print(picture)
    return 0


def show_options(parser: "ArgumentParser") -> None:
    """Options of `shards show`."""
    from pattlite_dist.shards.manifest import SplitName

    parser.add_argument("dir", help=_DIR)
    parser.add_argument("--split", type=SplitName, default="train")
    parser.add_argument("--columns", type=int, default=14, help="samples per class")
    parser.add_argument("--seed", type=int, default=0, help="for choosing the samples")
    parser.add_argument("--flagged", action="store_true", help="flagged samples only")
    parser.add_argument(
        "--picture", type=Path, help="file to draw (default: DIR/samples.png or flagged.png)"
    )


def show(options: Any) -> int:
    """Draw a sheet of samples, one row per class, flagged ones in coloured frames."""
    from pattlite_dist.shards.pictures import draw_samples
    from pattlite_dist.shards.samples import pick_samples

    if not 1 <= options.columns <= 100:
        raise UserError(f"--columns is {options.columns}; give 1 to 100")
    if options.seed < 0:
        raise UserError(f"--seed is {options.seed}; give 0 or more")
    origin, manifest = _opened(options.dir)
    name = "flagged.png" if options.flagged else "samples.png"
    picture = _picture(origin, options.picture, name)
    with show_progress() as progress:
        sheet = pick_samples(
            origin,
            manifest,
            options.split,
            options.columns,
            options.seed,
            options.flagged,
            progress,
        )
    if not sheet.rows:
        print(f"{options.dir}: no sample of {options.split} is flagged, so no picture")
        return 0
    draw_samples(manifest, sheet, picture)
    print(picture)
    return 0


def _opened(where: str) -> "tuple[Origin, Manifest]":
    from pattlite_dist.data.fetch import Origin, fetch_manifest

    origin = Origin(where)
    if origin.pipe:
        raise UserError(f"{where!r} is a command; give a folder or an address")
    return origin, fetch_manifest(origin)


def _picture(origin: "Origin", picture: Path | None, name: str) -> Path:
    if picture is None and not origin.local:
        raise UserError(
            f"{origin.shown(name)} cannot be written; choose a file with --picture FILE"
        )
    return picture or Path(origin.root) / name
