"""Upload the offline segments of runs, in order, each run to one W&B run."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pattlite_dist.compat.wandb import FEW_RETRIES
from pattlite_dist.errors import UserError
from pattlite_dist.tracking.lock import taken
from pattlite_dist.tracking.settings import WandbConfig
from pattlite_dist.tracking.wandb_segments import Segment, read_segment
from pattlite_dist.tracking.wandb_server import without_key

_QUIET = 60.0  # seconds; wandb writes the file of a running run four times a minute


class Plan(NamedTuple):
    """What to upload from a run.

    Attributes:
        upload: segments in the order of their starts.
        torn: those of them that end in a record cut off by a kill.
        uploaded: how many wandb has marked as uploaded.
        open: the segment of a start that is still running, skipped.
    """

    upload: list[Segment]
    torn: list[Segment]
    uploaded: int
    open: Segment | None


def make_plan(segments: Sequence[Segment], going_on: bool) -> Plan:
    """Select and order the segments to upload.

    Segments without a single record are skipped: wandb would refuse all the others with them.

    Args:
        segments: all of a run's, in any order.
        going_on: whether the newest belongs to a start that may still write.
    """
    begun = sorted((s for s in segments if s.started is not None), key=lambda s: s.started or 0.0)
    last = begun[-1] if begun else None
    still = last if last is not None and going_on and not last.ended else None
    upload = [s for s in begun if not s.synced and s is not still]
    torn = [s for s in upload if s.whole < s.size]
    return Plan(upload, torn, sum(s.synced for s in begun), still)


def make_command(run: Path, run_id: str, settings: WandbConfig, upload: list[Segment]) -> list[str]:
    """The one command that uploads these segments to the run's one W&B run.

    Project and entity are the run's newest: they may differ from those of earlier starts.
    """
    from pattlite_dist.tracking.wandb_run import wandb_folders

    variables = {**wandb_folders(run), **FEW_RETRIES, "WANDB_SILENT": "false"}
    entity = ["--entity", settings.entity] if settings.entity else []
    return [
        "env", *(f"{name}={value}" for name, value in variables.items()),
        sys.executable, "-m", "wandb", "sync", "--id", run_id, "--project", settings.project,
        *entity, *(str(segment.path.parent) for segment in upload),
    ]  # fmt: skip


def prepare(run: Path) -> tuple[Plan, list[str]]:
    """What to upload from a run, and the command that does it.

    Raises:
        UserError: it is not a run folder or has no segments.
    """
    from pattlite_dist.tracking.folder import load_config
    from pattlite_dist.tracking.wandb_run import WANDB_FOLDER, run_id

    config = load_config(run)
    folder = run / WANDB_FOLDER
    files = sorted(folder.glob("offline-run-*/*.wandb"))
    known = run_id(folder)
    if not files or known is None:
        raise UserError(
            f"{folder} holds no offline segments; wandb.mode=online leaves nothing to upload, and "
            "wandb.mode=disabled keeps nothing"
        )
    segments = [read_segment(path) for path in files]
    plan = make_plan(segments, _going_on(run, files))
    return plan, make_command(run, known, config.wandb, plan.upload)


def _going_on(run: Path, files: Sequence[Path]) -> bool:
    """Whether a process may still write to the newest segment."""
    held = taken(run)
    if held is not None:
        return held
    # No locks here: a file unchanged for this long is no longer being written.
    return time.time() - max(path.stat().st_mtime for path in files) < _QUIET


def upload(run: Path, plan: Plan, command: list[str]) -> None:
    """Run the command.

    Raises:
        UserError: wandb could not upload all segments; the message says why.
    """
    for segment in plan.torn:  # otherwise wandb would stop there
        os.truncate(segment.path, segment.whole)
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, check=False,
    )  # fmt: skip
    left = [segment for segment in plan.upload if not segment.synced]
    if done.returncode or left:  # wandb exits with 0 even if it could not upload
        raise UserError(
            f"{run}: {len(left)} of {len(plan.upload)} segments were not uploaded: "
            f"{reason(done.stdout)}; fix that (`wandb login` if there is no login) and repeat"
        )


def reason(output: str) -> str:
    """The error that wandb reports, on one line and without the key."""
    lines = [line.removeprefix("wandb: ").strip() for line in output.splitlines() if line.strip()]
    wrong = [line for line in lines if line.startswith(("Error", "ERROR"))]
    # wandb names its own log first; the first of the other lines is the cause.
    wrong = [line for line in wrong if "error logs at" not in line and "retrying" not in line]
    text = (wrong or lines[-1:] or ["wandb says nothing"])[0]
    return without_key(text.removeprefix("Error: ").removeprefix("ERROR ").rstrip("."))
