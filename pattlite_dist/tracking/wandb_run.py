"""One Weights & Biases run for all starts of a run, with all of its files in the run folder."""

import contextlib
import os
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pattlite_dist.config import Config
from pattlite_dist.errors import Unreachable, UserError
from pattlite_dist.files import write_text
from pattlite_dist.runtime.code import git_state
from pattlite_dist.runtime.notes import note
from pattlite_dist.runtime.signals import held_back
from pattlite_dist.tracking.record import RECORD_NAME, read_metrics, scalars
from pattlite_dist.tracking.settings import WandbConfig
from pattlite_dist.tracking.wandb_segments import summary
from pattlite_dist.tracking.wandb_server import has_login, unreachable, without_key

if TYPE_CHECKING:
    from pattlite_dist.tracking.wandb_logger import LenientWandbLogger

WANDB_FOLDER = "wandb"
STEP = "trainer/global_step"  # Lightning's name for the step metric
# wandb writes its file four times a minute, so a kill loses the last seconds; these are ample.
_UNSURE = 60.0
_LOST = "lost-since.txt"
_LONGEST_TAG = 64  # characters; W&B refuses more


def wandb_mode(wanted: str) -> str:
    """online, offline or disabled: `auto` is online if there is a login, else offline."""
    if wanted != "auto":
        return wanted
    if os.environ.get("WANDB_MODE") in ("online", "offline", "disabled"):
        return os.environ["WANDB_MODE"]
    return "online" if has_login() else "offline"


def wandb_folders(run: Path) -> dict[str, str]:
    """Environment variables that keep wandb's files in the run folder, off the home quota."""
    folder = run / WANDB_FOLDER
    names = ("CACHE", "DATA", "ARTIFACT")
    return {"WANDB_DIR": str(run), **{f"WANDB_{n}_DIR": str(folder / n.lower()) for n in names}}


def run_id(folder: Path) -> str | None:
    """The id of a run, fixed since its first start; None before that."""
    try:
        return (folder / "run-id.txt").read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None


def under_agent() -> bool:
    """Whether wandb's own sweep agent has started this process, for one run of a sweep."""
    return bool(os.environ.get("WANDB_SWEEP_ID") and os.environ.get("WANDB_RUN_ID"))


def as_agent_says(config: Config) -> Config:
    """The configuration with a name of its own, if it is one of a sweep by wandb's agent."""
    if not under_agent():
        return config
    return config.model_copy(update={"name": f"{config.name}-{os.environ['WANDB_RUN_ID']}"})


def missing(
    lines: Sequence[dict[str, Any]], first: bool, lost: float | None = None
) -> list[dict[str, Any]]:
    """Lines of the run's record that W&B may lack and that training will not log again.

    All of them on the first start with W&B; later, those since a minute before the previous start
    ended, or lost W&B at the time `lost`: it may have held them in memory only. What W&B already
    has is sent a second time with the same step and values.
    """
    if first or not lines:
        return list(lines)
    ended = max(line.get("time", 0.0) for line in lines)
    since = min(ended, ended if lost is None else lost) - _UNSURE
    return [line for line in lines if line.get("time", 0.0) > since]


def wandb_logger(config: Config, run: Path, main: bool) -> "LenientWandbLogger | None":
    """Lightning's Weights & Biases logger; the run's record must already be rewound.

    Returns None if it is disabled, and on all ranks but the first.

    Raises:
        UserError: online was requested without a login, or with one that is not valid.
        Unreachable: online was requested, and W&B's server does not answer.
    """
    if not main or not is_told(config):
        return None
    folder = run / WANDB_FOLDER
    known = run_id(folder)
    experiment = begin(config, run)
    # Lightning does this only if it creates the run itself. wandb's own step just counts calls, so
    # a step repeated after a kill is never refused as older than the last.
    experiment.define_metric(STEP)
    experiment.define_metric("*", step_metric=STEP, step_sync=True)
    lines = read_metrics(run / RECORD_NAME)
    for line in missing(lines, first=known is None, lost=_lost_since(folder)):
        experiment.log({**scalars(line), STEP: line["step"]})
    from pattlite_dist.tracking.wandb_logger import LenientWandbLogger

    return LenientWandbLogger(experiment, str(run), lambda: _note_loss(folder))


def is_told(config: Config) -> bool:
    """Whether W&B is told of a run."""
    return "wandb" in config.tracking.loggers and wandb_mode(config.wandb.mode) != "disabled"


def begin(config: Config, run: Path) -> Any:
    """Open the W&B run of a run, to go on with it.

    If nobody asked for online, what keeps W&B from it is only said, and the run is kept offline.

    Raises:
        UserError: online was requested without a login, or with one that is not valid.
        Unreachable: online was requested, and W&B's server does not answer.
    """
    mode = wandb_mode(config.wandb.mode)
    if mode == "online" and not has_login():
        raise UserError("wandb.mode is online without a login; run `wandb login` or use offline")
    requested = "online" in (config.wandb.mode, os.environ.get("WANDB_MODE"))
    if mode == "online" and not requested and (reason := unreachable()) is not None:
        _tell_offline(reason)
        mode = "offline"
    folder = run / WANDB_FOLDER
    for name, value in wandb_folders(run).items():
        os.environ.setdefault(name, value)
    if run_id(folder) is None:
        given = os.environ["WANDB_RUN_ID"] if under_agent() else secrets.token_hex(4)
        write_text(folder / "run-id.txt", given + "\n")
    try:
        return _init(config, run, mode)
    except Exception as error:
        if mode == "offline":
            raise
        reason = without_key(str(error))
        if requested:
            raise _refused(error, reason) from error
        _tell_offline(reason)
        end()  # of the attempt, whose id would otherwise be in use
        return _init(config, run, "offline")


def add_to_summary(config: Config, run: Path, values: Mapping[str, float]) -> None:
    """Add values to the summary of a run that W&B knows; what goes wrong is only said.

    Offline, they are a segment of their own, which `pattlite sync` uploads after the others.
    """
    if not is_told(config) or run_id(run / WANDB_FOLDER) is None:
        return
    try:
        experiment = begin(config, run)
        experiment.summary.update(dict(values))
        experiment.finish()
    except Exception as error:
        note(f"W&B is not told of the evaluation: {without_key(str(error))}")


def _init(config: Config, run: Path, mode: str) -> Any:
    settings: WandbConfig = config.wandb
    code = git_state()  # of this package; wandb itself looks where it is started
    with held_back():  # no thread of wandb may take the signals that are meant for this one
        import wandb

        experiment = wandb.init(
            name=config.name,
            id=run_id(run / WANDB_FOLDER),
            project=settings.project,
            entity=settings.entity,
            group=settings.group,
            job_type=settings.job_type,
            tags=[tag[:_LONGEST_TAG] for tag in settings.tags],
            dir=str(run),
            mode="offline" if mode == "offline" else "online",
            # Offline too: it is written into the segment, so that `wandb sync` appends the segment
            # to the run instead of replacing it.
            resume="allow",
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, git_commit=code["commit"]
            ),
            config=config.model_dump(mode="json"),
        )
        if mode == "offline":
            # Online, wandb goes on with the server's; an uploaded segment replaces it by its own.
            with contextlib.suppress(UserError):  # `pattlite sync` says which cannot be read
                experiment.summary.update(summary(run / WANDB_FOLDER))
        if code["diff"]:
            diff = Path(experiment.dir) / "diff.patch"  # as wandb calls its own
            write_text(diff, code["diff"])
            experiment.save(diff, base_path=diff.parent, policy="now")
        return experiment


def _tell_offline(reason: str) -> None:
    note(f"W&B is kept offline: {reason}; `pattlite sync` uploads it later")


def _refused(error: Exception, reason: str) -> UserError | Unreachable:
    """What ends a run that was to be online."""
    from wandb.errors import AuthenticationError, UsageError

    if isinstance(error, (AuthenticationError, UsageError, ValueError)):
        return UserError(f"W&B refuses the login: {reason}; run `wandb login` or use offline")
    return Unreachable(
        f"wandb.mode is online, but W&B cannot be started: {reason}; start again later, or use "
        "wandb.mode=auto, which goes on offline"
    )


def end() -> None:
    """Let wandb write what it has, even if a signal has ended its process."""
    if "wandb" in sys.modules:
        import wandb

        with contextlib.suppress(Exception):  # its process is gone: the next start catches up
            wandb.teardown()


def _note_loss(folder: Path) -> None:
    with contextlib.suppress(UserError):  # a full disk
        write_text(folder / _LOST, f"{time.time()}\n")


def _lost_since(folder: Path) -> float | None:
    path = folder / _LOST
    try:
        since = float(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    path.unlink()
    return since
