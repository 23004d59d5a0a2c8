"""The session on a cluster of docs/slurm.md, in a clone, on generated faces and two small nodes."""

import json
import re
from pathlib import Path

import pytest

from pattlite_dist.slurm.profile import load_profile
from pattlite_dist.slurm.script import interpreter
from tests.documents import blocks, told
from tests.slurm.conftest import Cluster
from tests.test_readme import SHORT, clone, shell, without_download

__all__ = ["clone"]  # a fixture

ONE_TASK = (
    "--profile cpu profile.nodes=1 profile.tasks_per_node=1 profile.memory_gb=1 "
    "profile.environment='{{WANDB_MODE: offline}}' profile.python={python}"
)
# Here that is a run of three steps, for there are seven.
SHORTER = SHORT.replace("global_batch=8", "global_batch=32") + " --model.cut=7"


def adapted(line: str, python: str) -> str:
    """The command with a profile that fits these nodes, and a run of seconds."""
    line = without_download(line)
    if "--dry-run" in line:
        return line
    line = re.sub(r"--profile \S+", ONE_TASK.format(python=python), line)
    if " sweep " in line:
        return f"{line} {SHORTER.replace('--', '')}"
    if " -c " in line:
        return f"{line} {SHORTER}"
    return line


def test_the_profiles_that_are_shown_are_some(tmp_path: Path) -> None:
    profiles = []
    for page in ("docs/slurm.md", "docs/cloud.md"):
        for block in (text for _, kind, text in blocks(page) if kind == "yaml"):
            (tmp_path / "profile.yaml").write_text(block)
            profiles.append(load_profile(str(tmp_path / "profile.yaml")))
    profile, spot, contained = profiles
    assert (profile.world_size, profile.minutes) == (8, 24 * 60)
    assert spot.world_size == 2
    assert interpreter(contained).endswith("/images/pattlite -- /opt/pattlite/bin/python")


@pytest.mark.slurm
@pytest.mark.slow
def test_the_session_on_a_cluster_runs_as_it_is_told(
    cluster: Cluster, warm_python: str, clone: Path
) -> None:
    lines = [one.line for one in told("cluster")]
    assert len(lines) >= 11
    made = shell("python shards/create.py fer2013.csv shards/fer2013", clone)
    assert made.returncode == 0, made.stderr
    for line in lines:
        done = shell(adapted(line, warm_python), clone)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        if "submit" in line or "cancel" in line or "--only-failed" in line:
            cluster.until(lambda: not cluster.queue(), 240)
    rows = json.loads(shell("pattlite status runs/lr --json", clone).stdout)
    assert [row["state"] for row in rows] == ["finished"] * 6
    assert (clone / "runs" / "fer2013" / "evaluation.json").exists()
    assert (clone / "shards" / "again" / "manifest.json").exists()
