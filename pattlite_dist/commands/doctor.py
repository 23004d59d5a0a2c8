"""`pattlite doctor`: find what would stop a run on this machine, or a job once submitted."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from pattlite_dist.commands.options import (
    chosen_config,
    config_options,
    given_config,
    given_profile,
    profile_option,
)
from pattlite_dist.errors import UserError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from pattlite_dist.commands.workstation import Finding
    from pattlite_dist.config import Config
    from pattlite_dist.slurm.checks import Report
    from pattlite_dist.slurm.submit import Plan

PROBLEMS = 3  # exit status of a check that found any
_STOPPED = 2  # and of one that found what would stop a run here


def add_options(parser: "ArgumentParser") -> None:
    """Options of `doctor`."""
    config_options(parser)
    profile_option(parser, required=False)
    parser.add_argument(
        "--report",
        action="store_true",
        help="print versions, findings and changed settings, to be pasted into a bug report",
    )


def work(options: Any) -> int:
    """Check a training job without submitting it; without a profile, this machine."""
    if options.report:
        return _report(options)
    if options.profile is None:
        return _examine(options)
    run, report = _job(options)
    if not _told(report, sys.stdout):
        return PROBLEMS
    from rich.console import Console
    from rich.text import Text

    Console().print(Text(f"{run}: ready to be submitted", "green"), soft_wrap=True)
    return 0


def _job(options: Any) -> "tuple[Path, Report]":
    """Check the training job of a configuration and a profile; also returns its run folder."""
    from pattlite_dist.slurm.checks import Report
    from pattlite_dist.slurm.doctor import check
    from pattlite_dist.slurm.queue import live_jobs
    from pattlite_dist.slurm.submit import train_plan
    from pattlite_dist.tracking.folder import run_folder

    profile = given_profile(options)
    config = chosen_config(options)
    run = run_folder(config)
    report, live = Report(), []
    try:
        live = [info.job for info in live_jobs(run, "train")]
    except UserError as error:
        report.notes.append(str(error))
    report.add(check({run: config}, train_plan(config, profile), immediate=30, live=live))
    return run, report


def _examine(options: Any) -> int:
    """Check this machine, in a line for each thing; returns 2 if a run would be stopped."""
    failed = 0
    for finding in _findings(options):
        print(_line(finding), flush=True)
        failed += finding.state == "failed"
    return _STOPPED if failed else 0


def _findings(options: Any) -> "Iterator[Finding]":
    """What was found out about this machine."""
    from pattlite_dist.commands.workstation import examine

    if options.profile_overrides:
        raise UserError(f"profile.{options.profile_overrides[0]} requires --profile; add it")
    config = given_config(options)
    named = bool(options.config) or config.data.shards != type(config.data)().shards
    return examine(config, named)


def _line(finding: "Finding") -> str:
    return f"{finding.state:9}{finding.what:11}{' '.join(finding.text.split())}"


def _report(options: Any) -> int:
    """Print what a bug report needs; what the checks find does not change the exit status."""
    from pattlite_dist.commands.bugreport import bug_report

    found: list[str] = []
    try:
        if options.profile is None:
            found += map(_line, _findings(options))
        else:
            _, report = _job(options)
            found += [*(f"note: {line}" for line in report.notes), *report.problems]
    except UserError as error:  # what cannot be checked may be what is to be reported
        found.append(f"error: {error}")
    for line in bug_report(found, given_config(options) if options.config else None):
        print(line)
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
