"""`pattlite shards create|sources|faces`: create shards, list sources, generate faces."""

from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from pattlite_dist.console import show_progress

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from pattlite_dist.shards.sources.base import Reading


def create_options(parser: "ArgumentParser") -> None:
    """Options of `shards create`."""
    from typing import Literal

    from pattlite_dist.location import Location

    add = parser.add_argument
    add("source", type=Location, help="a file, folder, zip, or WebDataset shards by address; see "
        "`pattlite shards sources`")  # fmt: skip
    add("out", type=Location, help="folder for the shards, or a URL such as s3://bucket/folder")
    add("--source", dest="kind", default="auto", help="read it as this kind of source")
    add("--jobs", type=int, help="processes (default: all cores); does not affect the bytes")
    add("--samples-per-shard", type=int, default=2048)
    add("--force", action="store_true", help="replace an existing set in OUT")
    add("--work", type=Path, help="folder for unfinished files (default: OUT/.creating)")
    add(
        "--blanks", choices=("flag", "keep", "drop"), default="flag",
        help="blank or nearly blank images: mark, keep unmarked, or leave out of train",
    )  # fmt: skip
    add(
        "--leaks", choices=("flag", "keep", "drop-train"), default="flag",
        help="val and test images also in train: mark, keep unmarked, or drop from train",
    )  # fmt: skip
    add("--val-fraction", type=float, default=0.1, help="if the source has no val split")
    add("--test-fraction", type=float, default=0.1, help="if the source has no test split")
    add("--seed", type=int, default=0, help="for cutting these splits")
    add(
        "--unlabelled", choices=("refuse", "skip"), default="refuse",
        help="samples without a label",
    )  # fmt: skip
    add("--image-size", type=int, help="side in pixels (default: that of most images)")
    add("--channels", type=Literal[1, 3], help="grey (1) or colour (3) (default: as most images)")
    add(
        "--other-images", choices=("convert", "refuse"), default="convert",
        help="images whose size or mode differs from the set's",
    )  # fmt: skip
    add(
        "--damaged", choices=("stop", "skip"), default="stop",
        help="damaged images: name all and stop, or leave them out and count them",
    )  # fmt: skip
    add("--votes", type=Path, help="FER+'s fer2013new.csv, joined to FER2013 by row number")
    add(
        "--target", choices=("labels", "majority", "soft"), default="labels",
        help="classes: FER2013's, FER+'s majority vote, or FER+'s vote shares",
    )  # fmt: skip
    add("--image-column", help="of a label table, or member of WebDataset samples (default: usual)")
    add("--label-column", help="of a label table, or member or JSON key of WebDataset samples")
    add("--split-column", help="of a label table (default: usual names)")
    add("--allow-pipe", action="store_true", help="SOURCE may be a command, pipe:...")


def _reading(options: Any) -> "Reading":
    from pattlite_dist.shards.sources.base import Reading

    return Reading(
        kind=options.kind,
        unlabelled=options.unlabelled,
        image_size=options.image_size,
        channels=options.channels,
        other_images=options.other_images,
        damaged=options.damaged,
        votes=options.votes,
        target=options.target,
        image_column=options.image_column,
        label_column=options.label_column,
        split_column=options.split_column,
        allow_pipe=options.allow_pipe,
    )


def create(options: Any) -> int:
    """Convert a source into shards."""
    from pydantic import ValidationError

    from pattlite_dist.data.foreign import fetch_file
    from pattlite_dist.errors import UserError
    from pattlite_dist.logins import without_secrets
    from pattlite_dist.runtime.limits import cores
    from pattlite_dist.shards.create import create_shards
    from pattlite_dist.shards.manifest import Options
    from pattlite_dist.shards.sources.registry import open_source
    from pattlite_dist.shards.stats import lacking, print_manifest

    reading = _reading(options)
    source = open_source(options.source, reading, fetch_file)
    try:
        decided = Options(
            blanks=options.blanks,
            leaks=options.leaks,
            val_fraction=options.val_fraction,
            test_fraction=options.test_fraction,
            seed=options.seed,
            reading=reading.words(),
        )
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).replace("_", "-")
        raise UserError(f"--{name}: {first['msg']}; see `pattlite shards create --help`") from error
    said: list[str] = []
    with show_progress() as progress:
        manifest = create_shards(
            source,
            options.out,
            samples_per_shard=options.samples_per_shard,
            options=decided,
            jobs=cores() if options.jobs is None else options.jobs,
            force=options.force,
            work=options.work,
            progress=progress,
            say=said.append,
        )
    print_manifest(manifest)
    print("".join(f"{line}\n" for line in [*said, *lacking(manifest)]), end="")
    print(f"{without_secrets(options.out)}: finished, manifest {manifest.fingerprint()[:12]}")
    return 0


def sources_options(parser: "ArgumentParser") -> None:
    """None."""


def sources(options: Any) -> int:
    """List the kinds of source that can be read."""
    from pattlite_dist.shards.sources.registry import KINDS

    for kind in KINDS:
        print(fill(kind.about, 96, initial_indent=f"{kind.name:16}", subsequent_indent=" " * 16))
    print("\nThe first that matches is used, or the one given with --source. With --votes")
    print(
        "fer2013new.csv (FER+), each row of a FER2013 CSV also gets its ten votes. Images are PNG,"
    )
    print("JPEG, BMP, WebP, GIF, TIFF, PGM or PPM, by their content and not their suffix.")
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
