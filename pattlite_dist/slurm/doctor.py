"""`pattlite doctor`: every problem with a job that can be found before it is submitted."""

import contextlib
import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pattlite_dist.config import Config
from pattlite_dist.data.fetch import Origin, fetch_manifest, needed_shards
from pattlite_dist.data.reader import check_targets
from pattlite_dist.data.settings import DataConfig
from pattlite_dist.data.targets import given_targets
from pattlite_dist.errors import UserError
from pattlite_dist.location import is_bucket, is_local, is_pretrained, no_weights
from pattlite_dist.logins import complete, without_secrets
from pattlite_dist.model.weights import find
from pattlite_dist.shards.manifest import Manifest
from pattlite_dist.shards.verify import wrong_sizes
from pattlite_dist.slurm import admission, checks, extras, node, reach
from pattlite_dist.slurm.checks import Report
from pattlite_dist.slurm.profile import Profile
from pattlite_dist.slurm.submit import Plan
from pattlite_dist.tracking import history
from pattlite_dist.tracking.folder import same_run
from pattlite_dist.tracking.wandb_run import wandb_mode
from pattlite_dist.tracking.wandb_server import has_login
from pattlite_dist.train import names
from pattlite_dist.train.checks import check_recipe
from pattlite_dist.train.pieces import few_images

Fetch = Callable[[Origin], Manifest | UserError]
_PATIENCE = 10.0  # seconds to wait for a silent server; the job itself waits longer


def check(
    runs: Mapping[Path, Config],
    plan: Plan,
    *,
    shards_pending: bool = False,
    immediate: int = 5,
    live: Sequence[str] = (),
    snapshot: bool = False,
) -> Report:
    """Look for everything that would make a job fail, wait forever or lose work.

    Each run is checked, and the cluster is asked once for all. Nothing is left behind: temporary
    files are written and removed, and a step of seconds runs on a node if one is free.

    Args:
        runs: configurations by the folders of their runs, which need not exist.
        plan: of their jobs, which are of one kind.
        shards_pending: another job, which these wait for, creates the shards.
        immediate: seconds to wait for a free node.
        live: ids of the jobs of these runs that are queued or running.
        snapshot: the jobs will use a copy of this package instead of what is installed.
    """
    # A hundred runs may read the same shards: each set is checked once.
    fetch = functools.cache(fetched)
    shards = functools.cache(functools.partial(shard_problems, fetch))
    reports = {
        run: _check_run(config, plan.profile, run, live, None if shards_pending else shards)
        for run, config in runs.items()
    }
    for run, config in runs.items() if not shards_pending else ():
        reports[run].problems += _changed(fetch, config, run)
    folders = {run: nearest(run) for run in runs}
    with contextlib.ExitStack() as stack:
        marks = {name: stack.enter_context(mark(name)) for name in dict.fromkeys(folders.values())}
        for run, folder in folders.items():
            reports[run].problems += marks[folder][0]
        report = checks.merged({run.name: found for run, found in reports.items()})
        answers, said = admission.ask(plan.profile, replace(plan, after=None).text())
        report.add(said)
        if not answers:
            return report
        paths = [seen for _, seen in marks.values()] + [Path.cwd()]
        paths += [path for config in runs.values() for path in _inputs(config, shards_pending)]
        code = Path(__file__).parents[2] if snapshot else None
        report.add(node.look(plan.profile, dict.fromkeys(paths), immediate, code))
        if not report.problems and plan.tasks != 1:
            report.add(reach.look(plan.profile, immediate, code))
    return report


def _check_run(
    config: Config,
    profile: Profile,
    run: Path,
    live: Sequence[str],
    shards: Callable[[DataConfig, int], list[str]] | None,
) -> Report:
    """Everything that can be checked about one run here, except whether its folder is writable."""
    settings = config.trainer
    report = Report()
    report.problems += checks.jobs(run, live)
    report.problems += _same_run(config, run)
    report.problems += checks.batch(settings.global_batch, profile.node_range, profile.local_size)
    few = few_images(settings, profile.world_size, config.model.sync_batchnorm)
    report.notes += [few] if few else []
    report.problems += checks.devices(settings.accelerator, profile.gpus_per_node)
    report.problems += extras.options(profile.sbatch, profile.srun, profile.memory_gb)
    report.problems += extras.environment(profile.environment)
    report.add(Report(*extras.secrets(profile, complete(config.data.shards) != config.data.shards)))
    every = settings.checkpoint_every_minutes
    report.add(checks.times(profile.minutes, profile.signal_seconds, every, _save_seconds(run)))
    report.problems += _wandb(config, profile)
    if shards is None:
        report.notes.append(
            f"shards in {config.data.shards}: not checked, another job creates them"
        )
    else:
        report.problems += shards(config.data, settings.global_batch)
    report.problems += weight_problems(config, run)
    report.problems += _recipe(config, run)
    report.problems += disk_problems(config, run, nearest(run))
    return report


def _same_run(config: Config, run: Path) -> list[str]:
    try:
        same_run(config, run)
    except UserError as error:
        return [str(error)]
    return []


def _save_seconds(run: Path) -> float | None:
    """The longest that a checkpoint of this run took."""
    found = [event.get("save_seconds") for event in history.read(run)]
    return max((value for value in found if isinstance(value, int | float)), default=None)


def _wandb(config: Config, profile: Profile) -> list[str]:
    mode = config.wandb.mode
    given = profile.environment.get("WANDB_MODE")
    if mode == "auto" and given in ("online", "offline", "disabled"):
        mode = given  # type: ignore[assignment]
    return checks.wandb(wandb_mode(mode), has_login() or "WANDB_API_KEY" in profile.environment)


def quick_origin(data: DataConfig) -> Origin:
    """The shards of a run, asked for with little patience."""
    timeout = min(data.timeout_seconds, _PATIENCE)
    return Origin(data.shards, data.allow_pipe, min(data.retries, 1), timeout)


def fetched(origin: Origin) -> Manifest | UserError:
    """The manifest there, or why there is none."""
    try:
        return fetch_manifest(origin)
    except UserError as error:
        return error


def shard_problems(fetch: Fetch, data: DataConfig, global_batch: int) -> list[str]:
    """What is wrong with the shards of a run."""
    origin = quick_origin(data)
    manifest = fetch(origin)
    if isinstance(manifest, UserError):
        return [str(manifest)]
    try:
        check_targets(data, manifest)
        given_targets(data, manifest)
    except UserError as error:
        return [str(error)]
    samples = {str(name): manifest.samples(name) for name in manifest.shards}
    lines = checks.splits(data.shards, samples, global_batch, data.tail)
    if origin.local:  # an address is checked when a shard is read
        wrong = wrong_sizes(Path(origin.root), needed_shards(data, manifest))
        lines += checks.shorten(wrong, "shards")
    return lines


def _changed(fetch: Fetch, config: Config, run: Path) -> list[str]:
    """Whether a run would continue on other shards than before, which it refuses."""
    before = history.last_start(history.read(run)).get("shards")
    manifest = fetch(quick_origin(config.data))
    if before is None or isinstance(manifest, UserError) or manifest.fingerprint() == before:
        return []
    if not names.listed(run / "checkpoints"):
        return []
    return [
        f"{run} was trained on other shards than those in {without_secrets(config.data.shards)}; "
        "give data.shards the place of those, or set name to start a new run"
    ]


def _weights_file(config: Config) -> Path | None:
    wanted = config.model.weights
    if wanted in (None, "none", "imagenet") or is_pretrained(wanted) or is_bucket(wanted):
        return None
    return Path(wanted)


def _teachers(config: Config) -> list[str]:
    """Those that are files or folders."""
    return [one for one in config.distill.teachers if not is_pretrained(one) and is_local(one)]


def weight_problems(config: Config, run: Path) -> list[str]:
    """What is wrong with the weights that a run begins with, and with its teachers'."""
    missing = [
        no_weights("distill.teachers", one) for one in _teachers(config) if not Path(one).exists()
    ]
    if names.listed(run / "checkpoints"):
        return missing  # the run's own are no longer read
    path, wanted = _weights_file(config), config.model.weights
    if wanted is not None and is_pretrained(wanted):
        try:
            path = find(wanted)
        except UserError as error:
            return [*missing, f"model.weights: {error}"]
    return [*missing, *checks.weights(wanted, path is None or path.exists())]


def _recipe(config: Config, run: Path) -> list[str]:
    return [] if names.listed(run / "checkpoints") else check_recipe(config)


def _inputs(config: Config, shards_pending: bool) -> list[Path]:
    """Files and folders here that the job reads; what is missing is reported elsewhere."""
    origin, weights = quick_origin(config.data), _weights_file(config)
    paths = [Path(origin.root)] if origin.local and not shards_pending else []
    paths += [weights] if weights else []
    paths += [Path(one) for one in _teachers(config)]
    paths += [path] if (path := config.data.targets_file) else []
    return [path.absolute() for path in paths if path.exists()]


def nearest(path: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())


@contextlib.contextmanager
def mark(folder: Path) -> Iterator[tuple[list[str], Path]]:
    """Write a temporary file; yields the problems, and the path that a node has to see."""
    path, problems = folder, []
    try:
        descriptor, name = tempfile.mkstemp(dir=folder, prefix=".pattlite-doctor-")
        path = Path(name)  # every node may have a folder of this name; the file is in one of them
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(b"x")
            stream.flush()
            os.fsync(descriptor)
    except OSError as error:
        reason = error.strerror or error
        problems = [f"cannot write into {folder}: {reason}; fix that, or set runs to another one"]
    try:
        yield problems, path
    finally:
        if path != folder:
            path.unlink(missing_ok=True)


def disk_problems(config: Config, run: Path, folder: Path) -> list[str]:
    """Whether the checkpoints of a run fit on the disk of a folder."""
    sizes = []
    for found in sorted(names.listed(run / "checkpoints")):
        with contextlib.suppress(OSError):  # training may remove it just now
            sizes.append((run / "checkpoints" / found.name).stat().st_size)
    free = shutil.disk_usage(folder).free
    return checks.disk(folder, free, config.trainer.keep_best, sizes[-1] if sizes else None)
