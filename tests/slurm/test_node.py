import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pattlite_dist.slurm import node
from pattlite_dist.slurm.profile import Profile
from tests.conftest import ROOT
from tests.slurm.conftest import Cluster

HERE = {
    "python": "3.11.7", "torch": "2.6.0", "pytorch_lightning": "2.6.6", "submitit": "1.5.4",
    "pattlite_dist": "0.1.0",
}  # fmt: skip


def facts(python: str = "3.11.7", missing: tuple[str, ...] = (), **other: Any) -> dict[str, Any]:
    versions = {name: version for name, version in HERE.items() if name != "python"}
    return {"python": python, "versions": {**versions, **other}, "missing": list(missing)}


def profile(**values: object) -> Profile:
    return Profile.model_validate({"gpus_per_node": 0, "cpus_per_task": 1, **values})


@pytest.mark.parametrize(
    ("told", "gpus", "words"),
    [
        (facts("3.9.2"), 0, ["Python on n1 is 3.9.2", "3.10"]),
        ({"python": "3.6.8", "versions": {}, "missing": []}, 0, ["3.6.8"]),
        (facts(torch=None), 0, ["torch is not installed on n1"]),
        (facts(pattlite_dist=None), 0, ["pattlite_dist is not installed"]),
        (facts(pattlite_dist="0.0.9"), 0, ["pattlite_dist is 0.0.9 on n1 and 0.1.0 here"]),
        (facts(submitit="1.4.0"), 0, ["submitit is 1.4.0 on n1 and 1.5.4 here"]),
        (facts(torch="2.6.0+cpu"), 2, ["built without CUDA", "gpus_per_node is 2"]),
        (facts(missing=("/home/me/runs",)), 0, ["/home/me/runs does not exist on n1", "share"]),
    ],
)
def test_a_node_that_does_not_fit_is_told(
    told: dict[str, Any], gpus: int, words: list[str]
) -> None:
    (line,) = node.compare("n1", told, HERE, gpus).problems
    for word in words:
        assert word in line
    assert ";" in line and "\n" not in line


def test_a_node_that_has_the_same_is_not_mentioned() -> None:
    report = node.compare("n1", facts(), HERE, 0)
    assert report.problems == report.notes == []


def test_other_versions_that_can_work_are_a_note() -> None:
    report = node.compare("n1", facts("3.12.1", torch="2.7.0+cu126"), HERE, 2)
    assert report.problems == []
    assert report.notes == ["n1 has Python 3.12.1 (here 3.11.7), torch 2.7.0+cu126 (here 2.6.0)"]


def answer(text: str, status: int, stderr: str, extras: bool = False) -> tuple[str, str]:
    """The one problem and the one note, or nothing."""
    report = node.judge(node.parse_answer(text), status, stderr, 5, extras)
    assert len(report.problems) < 2 and len(report.notes) < 2
    return "".join(report.problems), "".join(report.notes)


BUSY = "srun: job 20 queued and waiting for resources\nsrun: error: Unable to allocate resources: "


def test_why_nothing_came_back_from_a_node_is_told() -> None:
    assert answer("", 1, BUSY + "Requested nodes are busy\n") == (
        "", "Python on a node: not checked, no node was free in 5 s",
    )  # fmt: skip
    assert answer("", 1, BUSY + "Invalid qos specification\n", extras=True) == (
        "", "Python on a node: not checked, Invalid qos specification",
    )  # fmt: skip
    problem, note = answer("", 255, "srun: unrecognized option '--bogus'\nTry \"srun\"", True)
    assert "profile.srun: unrecognized option '--bogus'" in problem and not note
    stderr = "bash: line 5: /x: No such file\nsrun: error: n1: task 0: Exited with exit code 127\n"
    problem, note = answer("pattlite-node n1\n", 127, stderr)
    assert "does not start on n1: bash: line 5: /x: No such file;" in problem and not note
    text = "pattlite-node n1\nhello\npattlite-failed 1 module load x\npattlite-facts {}\n"
    assert answer(text, 0, "")[0].startswith("`module load x` (exit status 1) fails on n1")


@given(st.text(), st.text(), st.integers(0, 255))
def test_whatever_a_node_prints_is_read_without_an_error(out: str, err: str, status: int) -> None:
    for text in (out, f"pattlite-node n1\n{out}", f"pattlite-facts {out}"):
        report = node.judge(node.parse_answer(text), status, err, 5, False)
        assert all(len(line.splitlines()) == 1 for line in report.problems + report.notes)


def test_the_program_tells_what_python_has_and_does_not_see(tmp_path: Path) -> None:
    argv = [sys.executable, "-X", "importtime", "-c", node._PROGRAM]
    argv += [str(tmp_path), str(tmp_path / "not there")]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=ROOT)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "json" in imported and "torch" not in imported
    told = node.parse_answer(done.stdout).facts
    assert told is not None
    assert told["missing"] == [str(tmp_path / "not there")]
    assert {"python": told["python"], **told["versions"]} == node.versions()


def test_a_python_without_packages_says_so(tmp_path: Path) -> None:
    argv = [sys.executable, "-I", "-S", "-c", node._PROGRAM]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=tmp_path)
    told = node.parse_answer(done.stdout).facts
    assert told is not None and set(told["versions"].values()) == {None}


def test_the_step_asks_for_what_the_profile_asks_for() -> None:
    wanted = profile(
        partition="p", account="a", qos="q", constraint="c", exclude="e", srun=["--mpi=x"],
        sbatch={"reservation": "r", "mail-type": "END"}, container="env -i", python="/py thon",
        modules=["m"], setup=["true"],
    )  # fmt: skip
    command = node.srun_command(wanted, [Path("/a b")], 7)
    for option in (
        "--immediate=7", "--partition=p", "--account=a", "--qos=q", "--constraint=c",
        "--exclude=e", "--reservation=r", "--mpi=x", "--nodes=1", "--ntasks=1",
    ):  # fmt: skip
        assert option in command
    assert not any("mail" in word for word in command)
    lines = command[-1].splitlines()
    assert "module load m" in lines and "true" in lines
    assert any(line.startswith("env -i '/py thon' -c ") for line in lines)
    assert lines[-1].endswith("'/a b'")


def test_inside_of_a_job_its_variables_are_forgotten_and_sbatchs_defaults_hold() -> None:
    job = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "3", "SLURM_CONF": "/c", "HOME": "/h"}
    assert node.srun_environment(job) == {"SLURM_CONF": "/c", "HOME": "/h"}
    login = {"SBATCH_ACCOUNT": "a", "SBATCH_QOS": "b", "SLURM_QOS": "c"}
    assert node.srun_environment(login) == {**login, "SLURM_ACCOUNT": "a"}


@pytest.mark.slurm
def test_the_jobs_python_is_found_on_a_node(cluster: Cluster, tmp_path: Path) -> None:
    begin = time.monotonic()
    report = node.look(profile(setup=["export X=1"]), [tmp_path], 5)
    assert report.problems == report.notes == []
    assert time.monotonic() - begin < 30
    report = node.look(profile(container="env A=b"), [tmp_path, tmp_path / "no"], 5)
    (line,) = report.problems
    assert f"{tmp_path / 'no'} does not exist on n" in line


@pytest.mark.slurm
def test_it_is_found_from_inside_of_a_job_too(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("SLURM_NTASKS", "9")
    report = node.look(profile(), [], 5)
    assert report.problems == report.notes == []


@pytest.mark.slurm
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"python": "/no/python"}, ["Python does not start on n", "/no/python: No such file"]),
        ({"container": "no-such-command run"}, ["does not start", "no-such-command"]),
        ({"setup": ["exit 3"]}, ["does not start", "exit status 3"]),
        ({"setup": ["cd /no"]}, ["`cd /no` (exit status 1) fails on n", "profile.modules"]),
        ({"srun": ["--bogus"]}, ["profile.srun", "unrecognized option '--bogus'"]),
    ],
)
def test_what_keeps_python_from_its_work_on_a_node_is_told(
    cluster: Cluster, values: dict[str, object], words: list[str]
) -> None:
    (line,) = node.look(profile(**values), [], 5).problems
    for word in words:
        assert word in line


@pytest.mark.slurm
def test_other_versions_on_the_node_are_told(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "python"
    other = json.dumps(facts(torch="1.0+cpu", submitit="0.1"))
    fake.write_text(f"#!/bin/sh\necho 'pattlite-facts {other}'\n")
    fake.chmod(0o755)
    report = node.look(profile(python=str(fake)), [], 5)
    assert any("submitit is 0.1 on n" in line for line in report.problems)
    assert any("torch 1.0+cpu (here" in line for line in report.notes)


@pytest.mark.slurm
def test_a_full_cluster_is_a_note_within_seconds(cluster: Cluster) -> None:
    cluster.wait(cluster.fill(), "RUNNING")
    begin = time.monotonic()
    report = node.look(profile(), [], 2)
    assert time.monotonic() - begin < 30
    assert report.problems == []
    assert report.notes == ["Python on a node: not checked, no node was free in 2 s"]
    assert len(cluster.queue()) == 1


@pytest.mark.slurm
def test_a_node_that_hangs_is_given_up_and_nothing_stays_behind(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "_ANSWER_SECONDS", 1.0)
    report = node.look(profile(setup=["sleep 300"]), [], 1)
    assert report.problems == []
    assert report.notes == ["Python on a node: not checked, no answer in 2 s"]
    cluster.until(lambda: not cluster.queue(), 30)


def test_without_srun_nothing_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    report = node.look(profile(), [], 1)
    assert report.problems == [] and "not checked, srun: No such file" in report.notes[0]
