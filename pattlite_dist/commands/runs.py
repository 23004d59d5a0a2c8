"""`pattlite runs copy`: a run from a folder to a bucket, or from a bucket to a folder."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def copy_options(parser: "ArgumentParser") -> None:
    """Options of `runs copy`."""
    from pattlite_dist.location import Runs

    parser.add_argument("source", type=Runs, help="run folder, or address such as s3://bucket/RUN")
    parser.add_argument("target", type=Runs, help="folder or address to write")


def copy(options: Any) -> int:
    """Copy a run."""
    from pattlite_dist.buckets import copies

    copies.copy(options.source, options.target)
    print(f"{options.target}: a copy of {options.source}")
    return 0
