"""`pattlite doctor`: find problems with a training job before it is submitted."""

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from pattlite_dist.commands.options import (
    config_options,
    given_config,
    given_profile,
    profile_option,
)
from pattlite_dist.errors import UserError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from pattlite_dist.config import Config
    from pattlite_dist.slurm.checks import Report
    from pattlite_dist.slurm.submit import Plan

PROBLEMS = 3  # exit status of a check that found any


def add_options(parser: "ArgumentParser") -> None:
    """Options of `doctor`."""
    config_options(parser)
    profile_option(parser)


def work(options: Any) -> int:
    """Check a training job without submitting it."""
    from pattlite_dist.slurm.checks import Report
    from pattlite_dist.slurm.doctor import check
    from pattlite_dist.slurm.queue import live_jobs
    from pattlite_dist.slurm.submit import train_plan
    from pattlite_dist.tracking.folder import run_folder

    profile = given_profile(options)
    config = given_config(options)
    run = run_folder(config)
    report, live = Report(), []
    try:
        live = [info.job for info in live_jobs(run, "train")]
    except UserError as error:
        report.notes.append(str(error))
    report.add(check({run: config}, train_plan(config, profile), immediate=30, live=live))
    if not _told(report, sys.stdout):
        return PROBLEMS
    from rich.console import Console
    from rich.text import Text

    Console().print(Text(f"{run}: ready to be submitted", "green"), soft_wrap=True)
    return 0


def passes(
    configs: "Iterable[Config]", plan: "Plan", options: Any, live: Sequence[str] = ()
) -> bool:
    """Check the training jobs of a plan; prints every problem on standard error."""
    from pattlite_dist.slurm.doctor import check
    from pattlite_dist.tracking.folder import run_folder

    report = check(
        {run_folder(config): config for config in configs},
        plan,
        shards_pending=options.after is not None,
        live=live,
        snapshot=options.snapshot,
    )
    return _told(report, sys.stderr)


def _told(report: "Report", notes: TextIO) -> bool:
    """Print a report; returns whether it has no problems."""
    for line in report.notes:
        print(f"note: {line}", file=notes)
    for line in report.problems:
        print(f"pattlite: error: {line}", file=sys.stderr)
    return not report.problems
