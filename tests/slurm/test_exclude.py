"""Which nodes a requeued job does without, and how SLURM is told."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pattlite_dist.slurm import exclude
from pattlite_dist.slurm.exclude import Choice, Exclusion, already, choose, failed


@given(st.sets(st.sampled_from("abcdef")), st.integers(1, 6), st.integers(0, 6))
def test_a_job_never_does_without_so_many_that_it_cannot_start(
    names: set[str], nodes: int, spare: int
) -> None:
    bad = sorted(names)

    def fits(out: Sequence[str]) -> bool:
        return len(out) <= spare

    choice = choose(bad, nodes, fits)
    assert sorted([*choice.out, *choice.kept]) == bad
    assert fits(choice.out)
    if nodes > 1 and len(bad) >= nodes:
        assert choice.out == (), "what all have in common is no node's fault"
    else:
        assert len(choice.out) == min(len(bad), spare)


def test_the_nodes_that_failed_are_those_of_the_probe_or_the_one_that_none_reaches() -> None:
    bad = {"event": "probed", "bad": {"n2": ["full"]}}
    assert failed([{"event": "started"}, bad], 2) == ["n2"]
    assert failed([{"event": "failed", "error": "x"}], 2) == []
    alone = [{"event": "probed", "bad": {f"n{i}": ["cannot reach"]}, "main": "n1"} for i in (2, 3)]
    assert failed(alone[:1], 3) == ["n2"]
    assert failed(alone, 3) == ["n1"]
    assert failed(alone[:1], 2) == ["n2"], "of two, that whose job's script can decide stays"


def test_what_a_job_is_kept_from_is_read_from_slurm() -> None:
    assert already("JobId=1 ReqNodeList=(null) ExcNodeList=n[2-3],x NodeList=n1") == "n[2-3],x"
    assert already("JobId=1 ExcNodeList=(null) NodeList=n1") == ""
    assert already("") == ""


class Slurm:
    """Answers as SLURM would, from a table: by the command's first word or two."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **answers: int | None) -> None:
        self.answers, self.asked = answers, list[str]()
        monkeypatch.setattr(exclude.queue, "call", self._call)

    def _call(self, *command: str) -> "subprocess.CompletedProcess[str] | None":
        self.asked.append(" ".join(command))
        status = self.answers["show" if "show" in command else command[0]]
        if status is None:
            return None
        return subprocess.CompletedProcess(command, status, "JobId=7 ExcNodeList=n9 X=1", "refused")


def test_slurm_is_asked_whether_the_job_fits_and_told_once_it_waits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slurm = Slurm(monkeypatch, show=0, sbatch=0, scontrol=0)
    one = Exclusion("7", ["n2"], 2, Path("7.sh"))
    assert one.choice == Choice(("n2",), ())
    assert one.apply()
    assert slurm.asked[1:] == [
        "sbatch --test-only --exclude=n9,n2 7.sh", "scontrol update JobId=7 ExcNodeList=n9,n2",
    ]  # fmt: skip
    assert "n2 is excluded from this job" in capsys.readouterr().err


def test_what_cannot_be_excluded_is_said_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Slurm(monkeypatch, show=0, sbatch=1)
    one = Exclusion("7", ["n2"], 1, Path("7.sh"))
    assert one.choice == Choice((), ("n2",))
    assert one.apply()
    assert "n2 is not excluded: the job could not start" in capsys.readouterr().err
    Slurm(monkeypatch, show=0, sbatch=0, scontrol=1)
    assert not Exclusion("7", ["n2"], 2, Path("7.sh")).apply()
    said = capsys.readouterr().err
    assert "could not be excluded (refused); while the job waits, run `scontrol update" in said
    Slurm(monkeypatch, show=None)
    one = Exclusion("7", ["n2"], 2, Path("7.sh"))  # in a container
    assert not one.apply()
    assert "run `scontrol update JobId=7 ExcNodeList=n2`" in capsys.readouterr().err
