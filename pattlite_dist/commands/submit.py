"""`pattlite submit …`: work for a SLURM cluster."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pattlite_dist.commands.doctor import PROBLEMS, passes
from pattlite_dist.commands.evaluate import add_options as scoring_options
from pattlite_dist.commands.forward import job_arguments
from pattlite_dist.commands.options import (
    chosen_config,
    config_options,
    given_profile,
    job_options,
    train_job_options,
)
from pattlite_dist.errors import UserError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from pattlite_dist.slurm.profile import Profile
    from pattlite_dist.slurm.submit import Plan


def train_options(parser: "ArgumentParser") -> None:
    """Options of `submit`."""
    config_options(parser)
    train_job_options(parser)
    parser.add_argument(
        "--evaluate", action="store_true", help="also submit a job that scores the run"
    )


def train(options: Any) -> int:
    """Submit a training run; returns at once."""
    from pattlite_dist.location import with_absolute_paths
    from pattlite_dist.slurm import submit as jobs
    from pattlite_dist.slurm.job import TrainJob
    from pattlite_dist.slurm.pin import code_folder, pin
    from pattlite_dist.slurm.queue import live_jobs, require_slurm
    from pattlite_dist.tracking.folder import run_folder

    profile = given_profile(options)
    config = with_absolute_paths(chosen_config(options))
    plan = jobs.train_plan(config, profile, options.after)
    if options.dry_run:
        copy = code_folder(run_folder(config)) if options.snapshot else None
        print(plan.text(copy), end="")
        return 0
    if not options.skip_checks:
        live = [info.job for info in live_jobs(run_folder(config), "train")]
        if not passes([config], plan, options, live):
            return PROBLEMS
    require_slurm()
    run = jobs.prepare_run(config)
    facts = pin(run, profile, options.snapshot)
    code = Path(facts["code"]) if facts["code"] else None
    work = TrainJob(run, profile.max_requeues, profile.requeue_command)
    [job] = jobs.submit(plan, [work], code)
    jobs.note(run, job, "train", facts, options.after)
    tell(options, plan, job, run)
    if options.evaluate:
        _evaluate(options, run, profile, job, ["evaluate", str(run)], facts)
    return 0


def evaluate_options(parser: "ArgumentParser") -> None:
    """Options of `submit evaluate`."""
    scoring_options(parser)
    job_options(parser)


def evaluate(options: Any) -> int:
    """Submit an evaluation of a run."""
    from pattlite_dist.location import absolute

    profile = given_profile(options)
    target = absolute(Path(options.target), Path)
    if options.after is None and not target.exists():
        raise UserError(f"{options.target} does not exist; give a run folder or a checkpoint")
    if target.is_file() and target.suffix != ".ckpt":
        raise UserError(
            f"{options.target} is not a run folder or a checkpoint, and has no place for a job's "
            "log; score it with `pattlite evaluate`"
        )
    _evaluate(options, target, profile, options.after, job_arguments("evaluate", options))
    return 0


def _evaluate(
    options: Any,
    target: Path,
    profile: "Profile",
    after: str | None,
    arguments: Sequence[str],
    facts: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    from pattlite_dist.slurm import submit as jobs
    from pattlite_dist.slurm.job import CommandJob
    from pattlite_dist.train.names import run_of

    run = run_of(target)
    plan = jobs.Plan(f"pattlite-evaluate-{run.name}", run / "slurm", profile, after)
    if options.dry_run:
        print(plan.text(), end="")
        return
    code = Path(facts["code"]) if facts.get("code") else None
    [job] = jobs.submit(plan, [CommandJob(list(arguments))], code)
    jobs.note(run, job, "evaluate", facts)
    # Scores on other shards than the run's own get a folder in it, which the job will name.
    tell(options, plan, job, run if options.get("shards") else run / "evaluation.json")


def shards_options(parser: "ArgumentParser") -> None:
    """Options of `submit shards`."""
    from pattlite_dist.commands.shards import create_options

    create_options(parser)
    job_options(parser)


def shards(options: Any) -> int:
    """Submit the creation of shards: one task, no GPU."""
    from pattlite_dist.location import Location, absolute, is_local
    from pattlite_dist.shards.target import open_target
    from pattlite_dist.slurm import submit as jobs
    from pattlite_dist.slurm.job import CommandJob

    profile = given_profile(options)
    is_path = is_local(options.source) and "{" not in options.source  # else shards by pattern
    if is_path and not Path(options.source).exists():
        raise UserError(f"{options.source} does not exist; check the path")
    out = open_target(absolute(options.out, Location)).shown
    # Logs lie next to a folder; for an address, here.
    beside = Path(out) if is_local(out) else Path.cwd() / Path(out).name
    folder = beside.parent / f"{beside.name}-slurm"
    plan = jobs.Plan(f"pattlite-shards-{beside.name}", folder, profile, options.after, tasks=1)
    if options.dry_run:
        print(plan.text(), end="")
        return 0
    [job] = jobs.submit(plan, [CommandJob(job_arguments("shards create", options))])
    tell(options, plan, job, Path(out) if is_local(out) else out)
    return 0


def tell(options: Any, plan: "Plan", job: str, target: Path | str) -> None:
    """Print which job was submitted, for what, and where its log will be."""
    from pattlite_dist.slurm.submit import log_path

    if options.parsable:
        print(job)
    else:
        print(f"job {job}: {shown(target)}, log {shown(log_path(plan, job))}")


def shown(path: Path | str) -> str:
    """A path relative to the current folder if it is below it; an address unchanged."""
    here = Path.cwd()
    if isinstance(path, str):
        return path
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
