"""Submit jobs to SLURM through submitit: a thin layer over profile, script, pin and job."""

import contextlib
import io
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pattlite_dist.config import Config
from pattlite_dist.errors import UserError
from pattlite_dist.slurm import script
from pattlite_dist.slurm.admission import refusal
from pattlite_dist.slurm.profile import Profile
from pattlite_dist.slurm.queue import require_slurm
from pattlite_dist.tracking import history
from pattlite_dist.tracking.folder import prepare_folder, run_folder, same_run


@dataclass(frozen=True)
class Plan:
    """A job, or an array of jobs, that could be submitted.

    Attributes:
        name: of the job.
        folder: of submitit's pickles and the logs, absolute.
        profile: of the cluster.
        after: id of the job that must succeed first.
        tasks: 1 for work without ranks; None for the profile's ranks.
    """

    name: str
    folder: Path
    profile: Profile
    after: str | None = None
    tasks: int | None = None

    def __post_init__(self) -> None:
        script.check_folder(self.folder)  # before anything is written there

    def parameters(self, code: Path | None = None) -> dict[str, Any]:
        """The parameters for submitit; `code` is the folder of a copy of the package."""
        # Python puts the folder that it starts in before PYTHONPATH: a copy must be that folder.
        folder = code or Path.cwd()
        return script.parameters(
            self.profile, self.name, folder, code, self.after, self.tasks, self.folder
        )

    def text(self, code: Path | None = None, array: int | None = None) -> str:
        """The text that sbatch is given."""
        python = script.interpreter(self.profile)
        return script.script_text(self.parameters(code), python, self.folder, array)


def train_plan(config: Config, profile: Profile, after: str | None = None) -> Plan:
    """The training of a resolved configuration."""
    return Plan(f"pattlite-{config.name}", run_folder(config) / "slurm", profile, after)


def prepare_run(config: Config) -> Path:
    """Write the run folder that a job will train in; an existing run continues.

    Raises:
        UserError: the folder holds a run with another configuration.
    """
    run = run_folder(config)
    prepare_folder(same_run(config, run), run, None)
    return run


def submit(plan: Plan, jobs: Sequence[Callable[[], None]], code: Path | None = None) -> list[str]:
    """Submit one job, or several as an array; returns their ids, as users write them.

    Raises:
        UserError: there is no SLURM, or it refuses; the message says why.
    """
    require_slurm()
    from submitit.core.utils import FailedJobError, FailedSubmissionError
    from submitit.slurm.slurm import SlurmExecutor

    executor = SlurmExecutor(
        plan.folder,
        max_num_timeout=plan.profile.max_requeues,
        python=script.interpreter(plan.profile),
    )
    try:
        executor.update_parameters(**plan.parameters(code))
        # submitit prints what sbatch says about a job that it refuses, and then raises it.
        with contextlib.redirect_stderr(io.StringIO()):
            if len(jobs) == 1:
                return [str(executor.submit(jobs[0]).job_id)]
            with executor.batch():
                submitted = [executor.submit(job) for job in jobs]
            return [str(job.job_id) for job in submitted]
    except (FailedJobError, FailedSubmissionError, subprocess.SubprocessError) as error:
        raise UserError(refusal(str(error))) from error
    except OSError as error:
        raise UserError(
            f"cannot write {plan.folder}: {error.strerror or error}; free some space"
        ) from error


def note(
    run: Path, job: str, kind: str, facts: Mapping[str, Any], after: str | None = None
) -> None:
    """Record a submission in the history of its run.

    Args:
        run: folder.
        job: its id.
        kind: `train` or `evaluate`.
        facts: from `pin`.
        after: id of the job that must succeed first.
    """
    more = {} if after is None else {"after": after}
    commit, code = facts.get("commit"), facts.get("code")
    history.append(run, "submitted", job=job, kind=kind, commit=commit, code=code, **more)


def log_path(plan: Plan, job: str) -> Path:
    """The log of a job's first rank; submitit names it."""
    return plan.folder / f"{job}_0_log.out"
