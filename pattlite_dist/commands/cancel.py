"""`pattlite cancel`: end jobs."""

from typing import TYPE_CHECKING, Any

from pattlite_dist.slurm.cancel import cancel

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def add_options(parser: "ArgumentParser") -> None:
    """The command's options."""
    from pattlite_dist.location import Folder

    parser.add_argument(
        "targets", type=Folder, nargs="+", help="runs, sweeps, folders of these, or job ids"
    )
    parser.add_argument("--dry-run", action="store_true", help="only print what would be cancelled")


def work(options: Any) -> int:
    """Cancel; returns the exit status.

    Raises:
        UserError: as `cancel`.
    """
    cancel(options.targets, options.dry_run)
    return 0
