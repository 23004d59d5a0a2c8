"""`pattlite sweep`: a grid of runs on a SLURM cluster."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pattlite_dist.commands.doctor import PROBLEMS, passes
from pattlite_dist.commands.options import (
    CONFIG_HELP,
    given_config,
    given_profile,
    train_job_options,
)
from pattlite_dist.commands.submit import shown, tell
from pattlite_dist.errors import UserError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from pattlite_dist.config import Config
    from pattlite_dist.slurm.profile import Profile
    from pattlite_dist.slurm.submit import Plan
    from pattlite_dist.slurm.sweep import Sweep


def add_options(parser: "ArgumentParser") -> None:
    """Options of `sweep`."""
    from pattlite_dist.location import Folder

    parser.add_argument("-c", "--config", required=True, help=CONFIG_HELP)
    parser.add_argument(
        "words", nargs="*", type=str, help="KEY=VALUE, or KEY=VALUE,VALUE,… for one run each"
    )
    parser.add_argument("--name", required=True, help="of the sweep: its folder and W&B group")
    parser.add_argument(
        "--runs", type=Folder, default="runs", help="folder that contains the sweep's folder"
    )
    parser.add_argument("--only-failed", action="store_true", help="resubmit the runs that failed")
    train_job_options(parser)


def work(options: Any) -> int:
    """Submit a grid of runs as arrays of jobs; returns at once."""
    from pattlite_dist.slurm import sweep as sweeps
    from pattlite_dist.slurm.pin import code_folder

    profile = given_profile(options)
    whole, configs = _points(options)
    folder = Path(next(iter(configs.values())).runs)
    whole, names = _to_submit(folder, whole, options)
    if not names:
        print(f"{shown(folder)}: nothing has failed; see `pattlite status {shown(folder)}`")
        return 0
    if options.dry_run:
        copy = code_folder(folder) if options.snapshot else None
        for part in sweeps.chunks(names, profile.max_array):
            array = len(part) if len(part) > 1 else None
            print(_sweep_plan(options, folder, profile).text(copy, array), end="")
        return 0
    if not options.skip_checks:
        plan = _sweep_plan(options, folder, profile)
        if not passes([configs[name] for name in names], plan, options):
            return PROBLEMS
    _submit_sweep(options, profile, folder, whole, {name: configs[name] for name in names})
    return 0


def _points(options: Any) -> "tuple[Sweep, dict[str, Config]]":
    """The sweep that words describe, and the resolved configuration of each of its points."""
    from pattlite_dist.cli import parse
    from pattlite_dist.location import with_absolute_paths
    from pattlite_dist.slurm import sweep as sweeps

    axes = sweeps.read_axes(options.words)
    for key in ("name", "runs", "wandb.group"):
        if key in axes:
            raise UserError(f"{key} is set by the sweep; leave it out of the grid")
    base = given_config(parse("train", ["-c", options.config]))
    points = sweeps.grid(axes)
    configs = {}
    for name, values in zip(sweeps.point_names(points), points, strict=True):
        changes = {
            "name": name, "runs": str(Path(options.runs, options.name)),
            "wandb.group": options.name, "wandb.job_type": "sweep",
            "wandb.tags": [*base.wandb.tags, *(f"{key}={value}" for key, value in values.items())],
        }  # fmt: skip
        configs[name] = with_absolute_paths(sweeps.point_config(base, values, changes))
    listed = [
        sweeps.Point(name=name, values=values) for name, values in zip(configs, points, strict=True)
    ]
    return sweeps.Sweep(name=options.name, points=listed), configs


def _to_submit(folder: Path, whole: "Sweep", options: Any) -> "tuple[Sweep, list[str]]":
    """The sweep, and its points to submit: all of a new one, the failed ones of an existing one."""
    from pattlite_dist.slurm import status
    from pattlite_dist.slurm.queue import require_slurm
    from pattlite_dist.slurm.sweep import load_sweep

    before = load_sweep(folder)
    names = [point.name for point in whole.points]
    if before is None:
        if options.only_failed:
            raise UserError(f"{folder} is not a sweep yet; submit it without --only-failed")
        return whole, names
    known = {point.name: point.values for point in before.points}
    if known != {point.name: point.values for point in whole.points}:
        raise UserError(f"{folder} is a sweep with other points; give this one another name")
    if not options.only_failed:
        if not any(point.job for point in before.points):  # SLURM had refused it
            return before, names
        raise UserError(f"{folder} was submitted before; add --only-failed, or give another name")
    require_slurm()  # without its answer, waiting jobs would count as lost
    rows = status.survey([folder / name for name in names])
    failed = zip(names, rows, strict=True)
    return before, [name for name, row in failed if row.state not in status.GOING_WELL]


def _sweep_plan(options: Any, folder: Path, profile: "Profile") -> "Plan":
    from pattlite_dist.slurm.submit import Plan

    return Plan(f"pattlite-{options.name}", folder / "slurm", profile, options.after)


def _submit_sweep(
    options: Any, profile: "Profile", folder: Path, whole: "Sweep", configs: "dict[str, Config]"
) -> None:
    from pattlite_dist.slurm import submit as jobs
    from pattlite_dist.slurm.job import TrainJob
    from pattlite_dist.slurm.pin import link_pinned, pin
    from pattlite_dist.slurm.queue import max_array_size, require_slurm
    from pattlite_dist.slurm.sweep import chunks

    require_slurm()
    plan = _sweep_plan(options, folder, profile)
    runs = {name: jobs.prepare_run(config) for name, config in configs.items()}
    facts = pin(folder, profile, options.snapshot)
    for run in runs.values():
        link_pinned(folder, run)
    code = Path(facts["code"]) if facts["code"] else None
    whole.save(folder)
    for names in chunks(list(runs), profile.max_array or max_array_size()):
        work = [
            TrainJob(runs[name], profile.max_requeues, profile.requeue_command) for name in names
        ]
        ids = dict(zip(names, jobs.submit(plan, work, code), strict=True))
        whole = whole.with_jobs(ids)
        whole.save(folder)  # after each array, so that a refused one can be submitted again
        for name, job in ids.items():
            jobs.note(runs[name], job, "train", facts)
            tell(options, plan, job, runs[name])
