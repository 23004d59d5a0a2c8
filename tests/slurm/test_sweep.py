"""Grids of runs on a real SLURM: arrays as large as it allows, and only what failed once more."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pattlite_dist.slurm.sweep import load_sweep
from tests.conftest import Run, tiny
from tests.slurm.conftest import Cluster

pytestmark = pytest.mark.slow

PROFILE = {
    "gpus_per_node": 0, "cpus_per_task": 1, "memory_gb": 1, "time": "10:00", "signal_seconds": 30,
}  # fmt: skip
GRID = ["sweep", "-c", "config.yaml", "--name", "grid", "--profile", "profile.yaml"]
SIX = "data.shards=a,b,c,d,e,f"


@pytest.fixture(autouse=True)
def _files(tmp_path: Path) -> None:
    """A profile, and the configuration of runs of seconds."""
    tree: dict[str, Any] = {}
    for option in tiny(Path("shards"), Path("runs"), trainer__epochs=1)[2:]:
        key, _, value = option.removeprefix("--").partition("=")
        *parents, last = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = yaml.safe_load(value)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    (tmp_path / "profile.yaml").write_text(yaml.safe_dump(PROFILE))


def printed(pattlite: Run, *arguments: str) -> str:
    done = pattlite(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(pattlite: Run, *arguments: str, **extra: str) -> str:
    """The one line of a command that failed."""
    done = pattlite(*arguments, **extra)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    [line] = done.stderr.splitlines()
    return line


def rows(pattlite: Run) -> dict[str, dict[str, Any]]:
    """What `status` says of each point's run, by its name."""
    listed = json.loads(printed(pattlite, "status", "runs/grid", "--json"))
    return {Path(row["run"]).name: row for row in listed}


def test_a_dry_run_prints_an_array_as_large_as_the_profile_allows(
    pattlite: Run, tmp_path: Path
) -> None:
    before = sorted(tmp_path.iterdir())

    def arrays(most: int, *words: str) -> list[str]:
        done = pattlite(*GRID, *words, "--dry-run", f"profile.max_array={most}", PATH="/nowhere")
        assert (done.returncode, done.stderr) == (0, "")
        lines = done.stdout.splitlines()
        assert lines.count("#!/bin/bash") == sum(line.startswith("srun ") for line in lines)
        return [line for line in lines if "--array" in line]

    assert arrays(6, SIX) == ["#SBATCH --array=0-5%6"]
    assert arrays(4, SIX, "profile.array_parallelism=2") == ["#SBATCH --array=0-2%2"] * 2
    assert arrays(6, "seed=3") == []  # one job is no array
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["seed"], "'seed' is not key=value"),
        (["seed=0,1", "seed=2"], "seed is given twice"),
        (["optim.rate=1,2"], "optim.rate"),
        (["seed=0,many"], "seed"),
        (["name=a,b"], "name is set by the sweep"),
        (["seed=0,1", "--only-failed"], "is not a sweep yet"),
        (["seed=0,1", "--skip-checks"], "there is no SLURM here"),
    ],
)
def test_what_cannot_be_a_sweep_is_told_in_one_line(
    pattlite: Run, tmp_path: Path, words: list[str], said: str
) -> None:
    assert said in refused(pattlite, *GRID, *words, PATH="/nowhere")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slurm
def test_only_the_run_that_failed_is_submitted_again_when_its_cause_is_mended(
    cluster: Cluster, warm_python: str, face_shards: Path, pattlite: Run, tmp_path: Path
) -> None:
    profile = {**PROFILE, "python": warm_python}
    (tmp_path / "profile.yaml").write_text(yaml.safe_dump(profile))
    high = cluster.fill()  # no job begins, and fails, before all is said of those that wait
    cluster.wait(high, "RUNNING")
    for name in "abcde":
        (tmp_path / name).symlink_to(face_shards)
    grid, skip = tmp_path / "runs" / "grid", "--skip-checks"
    unchecked = pattlite(*GRID, "data.shards=f,a")
    assert unchecked.returncode == 3
    assert f"{tmp_path}/f" in unchecked.stderr
    line = refused(pattlite, *GRID, SIX, skip, "profile.partition=nosuch")
    assert "SLURM refuses the job: invalid partition" in line

    text = printed(pattlite, *GRID, SIX, "--dry-run", "profile.max_array=3")
    lines = printed(pattlite, *GRID, SIX, skip).splitlines()
    sweep = load_sweep(grid)
    assert sweep is not None
    jobs = {point.name: str(point.job) for point in sweep.points}
    assert [*jobs] == [f"shards-{letter}" for letter in "abcdef"]
    # The cluster's arrays have indices below 5.
    first, second = jobs["shards-a"][:-2], jobs["shards-f"][:-2]
    assert [*jobs.values()] == [f"{job}_{i}" for job in (first, second) for i in range(3)]
    scripts = [(grid / "slurm" / f"{job}_submission.sh").read_text() for job in (first, second)]
    assert "".join(scripts) == text
    assert lines == [
        f"job {job}: runs/grid/{name}, log runs/grid/slurm/{job}_0_log.out"
        for name, job in jobs.items()
    ]
    for name in jobs:
        config = yaml.safe_load((grid / name / "config.yaml").read_text())
        assert config["data"]["shards"] == str(tmp_path / name[-1])
        assert (config["name"], config["wandb"]["group"]) == (name, "grid")
        assert (grid / name / "pinned" / "facts.json").samefile(grid / "pinned" / "facts.json")

    assert "was submitted before" in refused(pattlite, *GRID, SIX, skip)
    assert "with other points" in refused(pattlite, *GRID, "seed=0,1", skip)
    assert "nothing has failed" in printed(pattlite, *GRID, SIX, skip, "--only-failed")

    cluster.cancel(high)
    cluster.until(lambda: not cluster.queue(), 150)
    states = {name: row["state"] for name, row in rows(pattlite).items()}
    assert states == {**dict.fromkeys(jobs, "finished"), "shards-f": "failed"}
    assert f"{tmp_path}/f" in rows(pattlite)["shards-f"]["reason"]

    (tmp_path / "f").symlink_to(face_shards)
    again = printed(pattlite, *GRID, SIX, skip, "--only-failed", "--parsable").strip()
    assert again.isdecimal()
    cluster.wait(again, ["COMPLETED", "FAILED"])
    after = rows(pattlite)
    assert {row["state"] for row in after.values()} == {"finished"}
    assert {name: row["job"] for name, row in after.items()} == {**jobs, "shards-f": again}
    assert after["shards-f"]["reason"] == ""
    assert "nothing has failed" in printed(pattlite, *GRID, SIX, skip, "--only-failed")


@pytest.mark.slurm
def test_a_sweep_that_runs_and_waits_is_cancelled(cluster: Cluster, pattlite: Run) -> None:
    five = [*GRID, "seed=0,1,2,3,4", "--skip-checks", "profile.setup=[sleep 60]"]
    jobs = printed(pattlite, *five, "--parsable", "profile.array_parallelism=2").split()
    assert jobs == [f"{jobs[0][:-2]}_{i}" for i in range(5)]  # as many as an array may have

    def states() -> list[str]:
        return [row["state"] for row in rows(pattlite).values()]

    cluster.until(lambda: states() == ["running"] * 2 + ["pending"] * 3)
    told = printed(pattlite, "cancel", "runs/grid").splitlines()
    assert [line.split()[0] for line in told] == jobs
    assert ["was RUNNING" in line for line in told] == [True] * 2 + [False] * 3
    cluster.until(lambda: not cluster.queue())
    assert states() == ["cancelled"] * 5
    text = printed(pattlite, *five, "--only-failed", "--dry-run")
    assert "#SBATCH --array=0-4%5\n" in text
