"""`pattlite sync`: upload what Weights & Biases kept offline."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pattlite_dist.compat.wandb import check
from pattlite_dist.tracking.wandb_sync import prepare, upload

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def add_options(parser: "ArgumentParser") -> None:
    """Options of `sync`."""
    parser.add_argument("runs", type=Path, nargs="+", help="run folders")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the commands instead of running them"
    )


def work(options: Any) -> int:
    """Upload, or print how; nothing is uploaded if any folder is not a run folder.

    Raises:
        UserError: a folder is not a run folder or has no segments, or wandb cannot upload them.
    """
    check()
    plans = [(run, *prepare(run)) for run in options.runs]
    remark = "# " if options.dry_run else ""  # so that all of the output is shell
    for run, plan, command in plans:
        if plan.open is not None:
            print(f"{remark}{run}: skipped, still running: {plan.open.path.parent.name}")
        if not plan.upload:
            print(f"{remark}{run}: nothing to upload; {plan.uploaded} segment(s) already uploaded")
        elif options.dry_run:
            print(shlex.join(command))
        else:
            upload(run, plan, command)
            print(f"{run}: {len(plan.upload)} segment(s) uploaded, {plan.uploaded} before")
    return 0
