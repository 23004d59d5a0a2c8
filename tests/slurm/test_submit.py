"""Jobs handed to a real SLURM: their text, what is pinned, what is refused, and what then runs."""

import json
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from pattlite_dist.shards.manifest import Options, load_manifest
from pattlite_dist.slurm.pin import package_digest, pin, warn_if_changed
from pattlite_dist.slurm.profile import Profile
from pattlite_dist.tracking import history
from pattlite_dist.tracking.wandb_segments import read_segment
from tests.conftest import ROOT, Run, environment, tiny
from tests.slurm.conftest import Cluster

pytestmark = pytest.mark.slow

PROFILE = {
    "nodes": 2, "gpus_per_node": 0, "tasks_per_node": 1, "cpus_per_task": 1, "memory_gb": 1,
    "time": "10:00", "signal_seconds": 30,
}  # fmt: skip
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"}


@pytest.fixture(autouse=True)
def _profile(tmp_path: Path) -> None:
    (tmp_path / "profile.yaml").write_text(yaml.safe_dump(PROFILE))


def words(**overrides: object) -> list[str]:
    """Of a submission from the test's folder, with paths as users write them."""
    options = tiny(Path("shards"), Path("runs"), **overrides)
    return ["submit", *options[1:], "--profile", "profile.yaml"]


def package_copy(folder: Path) -> Path:
    """A checkout of its own, with one commit and a change since."""
    shutil.copytree(
        ROOT / "pattlite_dist", folder / "pattlite_dist",
        ignore=shutil.ignore_patterns("__pycache__"),
    )  # fmt: skip
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["add", "."], [*author, "commit", "-qm", "all"]):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    change(folder, "model/__init__.py", "# A change since the commit.\n")
    return folder


def change(folder: Path, module: str, line: str) -> None:
    path = folder / "pattlite_dist" / module
    path.write_text(line + path.read_text())


def one_line(done: "subprocess.CompletedProcess[str]") -> str:
    """What a command that failed said: one line on standard error, and no more."""
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.strip()


def test_a_dry_run_needs_no_slurm_and_touches_nothing(pattlite: Run, tmp_path: Path) -> None:
    done = pattlite(*words(), "--dry-run", "profile.partition=long", PATH="/nowhere")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("#!/bin/bash\n")
    assert "#SBATCH --partition=long\n" in done.stdout
    assert f"#SBATCH --output={tmp_path}/runs/tiny/slurm/%j_0_log.out\n" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["profile.yaml"]

    script = [sys.executable, str(ROOT / "launch" / "slurm.py")]
    same = subprocess.run(
        [*script, *words()[1:], "--dry-run", "profile.partition=long"],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert same.stdout == done.stdout


@pytest.mark.parametrize("what", ["training", "evaluation", "shards"])
def test_without_slurm_that_is_told_in_one_line(pattlite: Run, tmp_path: Path, what: str) -> None:
    (tmp_path / "faces.csv").touch()
    arguments = {
        "training": [*words(), "--skip-checks"],
        "evaluation": ["submit", "evaluate", ".", "--profile", "profile.yaml"],
        "shards": ["submit", "shards", "faces.csv", "shards", "--profile", "profile.yaml"],
    }
    line = one_line(pattlite(*arguments[what], PATH="/nowhere"))
    assert line.startswith("pattlite: error: there is no SLURM here")
    assert {path.name for path in tmp_path.iterdir()} == {"profile.yaml", "faces.csv"}


@pytest.mark.parametrize("verb", ["evaluate", "shards"])
def test_what_a_job_would_not_find_is_told_at_once(pattlite: Run, verb: str) -> None:
    out = ["shards"] if verb == "shards" else []
    line = one_line(pattlite("submit", verb, "nothing", *out, "--profile", "profile.yaml"))
    assert "nothing does not exist" in line


def test_code_that_has_changed_since_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warn_if_changed(tmp_path)  # of a run that was never submitted nothing is known
    pin(tmp_path, Profile(), snapshot=False)
    warn_if_changed(tmp_path)
    assert capsys.readouterr().err == ""
    facts = tmp_path / "pinned" / "facts.json"
    facts.write_text(facts.read_text().replace(package_digest(), "0" * 64))
    warn_if_changed(tmp_path)
    assert "has changed since this job was submitted" in capsys.readouterr().err


@pytest.mark.slurm
def test_a_partition_that_is_not_there_is_told_in_one_line(
    cluster: Cluster, pattlite: Run, tmp_path: Path
) -> None:
    line = one_line(pattlite(*words(), "--skip-checks", "profile.partition=nosuch"))
    assert line.startswith("pattlite: error: SLURM refuses the job: invalid partition")
    assert "nosuch" in line and "set profile.partition" in line
    assert history.read(tmp_path / "runs" / "tiny") == []
    assert cluster.queue() == []


@pytest.mark.slurm
def test_a_chain_runs_the_code_of_its_submission_whatever_became_of_that_since(
    cluster: Cluster, container: str, faces_csv: Path, pattlite: Run, tmp_path: Path
) -> None:
    """In a container, as everything that such a job needs must be found in there."""
    contained = {**PROFILE, "container": container}
    (tmp_path / "profile.yaml").write_text(yaml.safe_dump(contained))
    code, run = package_copy(tmp_path / "code"), tmp_path / "runs" / "tiny"
    high = cluster.fill()
    cluster.wait(high, "RUNNING")

    def submit(*arguments: str) -> str:
        done = pattlite(*arguments, PYTHONPATH=str(code))
        assert done.returncode == 0, done.stderr
        return done.stdout

    shards = ["submit", "shards", str(faces_csv), "shards", "--samples-per-shard=32"]
    shards += ["--leaks", "drop-train", "--seed=5", "--profile", "profile.yaml"]
    text = submit(*shards, "--dry-run")
    first = submit(*shards, "--parsable").strip()
    assert (tmp_path / "shards-slurm" / f"{first}_submission.sh").read_text() == text

    training = words(trainer__epochs=1, wandb__mode="offline")
    snapshot = [*training, "--after", first, "--snapshot"]
    text = submit(*snapshot, "--dry-run")
    assert not run.exists()
    lines = submit(*snapshot, "--evaluate", "--skip-checks").splitlines()
    found = [re.fullmatch(r"job (\d+): (\S+), log (\S+)", line) for line in lines]
    [(second, where, log), (third, scores, _)] = [match.groups() for match in found if match]
    assert (where, scores) == ("runs/tiny", "runs/tiny/evaluation.json")
    assert (run / "slurm" / f"{second}_submission.sh").read_text() == text
    # It has returned, and nothing can have begun.
    assert [cluster.job(job)["JobState"] for job in (first, second, third)] == ["PENDING"] * 3
    assert not (tmp_path / log).exists()

    refused = pattlite(*training, "--after", first, PYTHONPATH=str(code))
    assert (refused.returncode, refused.stdout) == (3, "")
    [line] = [line for line in refused.stderr.splitlines() if not line.startswith("note: ")]
    assert f"already has job {second} queued or running" in line
    pinned = {path: path.read_bytes() for path in [run / "config.yaml", *run.glob("pinned/*")]}
    assert_pinned(run, code, contained)

    for module in ("train/run.py", "evaluation/evaluate.py"):
        change(code, module, "raise RuntimeError('the code of later')\n")
    cluster.cancel(high)
    for job in (first, second, third):
        state = cluster.wait(job, ENDED, 120)
        logs = [path.read_text() for path in tmp_path.rglob(f"{job}_*_log.out")]
        assert state == "COMPLETED", logs
    assert json.loads((run / "evaluation.json").read_text())["splits"].keys() == {
        "val", "test", "test_clean"
    }  # fmt: skip
    assert "has changed" not in (tmp_path / log).read_text()
    assert {path: path.read_bytes() for path in pinned} == pinned
    made = load_manifest(tmp_path / "shards")
    assert (made.samples_per_shard, made.samples("train")) == (32, 98)  # of 106
    assert made.options == Options(leaks="drop-train", seed=5)
    events = {event["event"]: event for event in history.read(run)}
    assert (events["started"]["ranks"], events["finished"]["step"]) == (2, -(-98 // 8))
    assert history.submissions(history.read(run)) == {second: "train", third: "evaluate"}
    segments = sorted(run.glob("wandb/offline-run-*/run-*.wandb"))
    assert [read_segment(path).ended for path in segments] == [True, True]  # and the evaluation's


def assert_pinned(run: Path, code: Path, profile: dict[str, object]) -> None:
    """A run that was submitted from its parent's parent, with the code of a checkout."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    home = run.parent.parent
    assert (config["runs"], config["data"]["shards"]) == (str(home / "runs"), str(home / "shards"))
    pinned = run / "pinned"
    facts = json.loads((pinned / "facts.json").read_text())
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=code, capture_output=True, text=True)
    assert (facts["commit"], facts["changed"]) == (commit.stdout.strip(), True)
    assert facts["package"] == package_digest(code / "pattlite_dist")
    assert package_digest(Path(facts["code"], "pattlite_dist")) == facts["package"]
    assert Path(facts["code"]).parent == run
    diff = (pinned / "diff.patch").read_text()
    assert "+++ b/pattlite_dist/model/__init__.py" in diff
    assert "+# A change since the commit.\n" in diff
    installed = (pinned / "requirements.txt").read_text().splitlines()
    assert f"torch=={metadata.version('torch')}" in installed
    assert (
        yaml.safe_load((pinned / "profile.yaml").read_text())
        == Profile.model_validate(profile).model_dump()
    )


@pytest.mark.slurm
def test_a_second_job_in_a_run_is_refused_and_the_first_goes_on(
    cluster: Cluster, face_shards: Path, pattlite: Run, tmp_path: Path
) -> None:
    code, run = package_copy(tmp_path / "code"), tmp_path / "runs" / "tiny"
    (tmp_path / "shards").symlink_to(face_shards)
    high = cluster.fill()

    def submit() -> str:
        options = ["--skip-checks", "--parsable", "profile.nodes=1"]
        done = pattlite(*words(trainer__epochs=4), *options, PYTHONPATH=str(code))
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    first = submit()
    change(code, "model/__init__.py", "# Another change.\n")
    cluster.cancel(high)
    cluster.until(lambda: [e for e in history.read(run) if e["event"] == "started"])
    cluster.run("scancel", "--signal=STOP", first)
    second = submit()
    assert cluster.wait(second, ENDED) == "FAILED"
    assert cluster.job(second)["ExitCode"] == "2:0"
    cluster.run("scancel", "--signal=CONT", first)
    assert cluster.wait(first, ENDED) == "COMPLETED"

    log = (run / "slurm" / f"{second}_0_log.out").read_text()
    [line] = [line for line in log.splitlines() if line.startswith("pattlite: error: ")]
    assert f"is being trained by job {first} (process" in line
    assert "Traceback" not in log
    assert "has changed since" in (run / "slurm" / f"{first}_0_log.out").read_text()
    events = [event for event in history.read(run) if event["job"] == first]
    names = ["submitted", "started", "first_step", "finished"]
    assert [event["event"] for event in events] == names
    assert events[-1]["step"] == 4 * 13
    assert history.standing(history.read(run)).last == "finished"
