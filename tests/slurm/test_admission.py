from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pattlite_dist.slurm import admission
from pattlite_dist.slurm.profile import Profile
from pattlite_dist.slurm.script import parameters, script_text
from tests.slurm.conftest import Cluster

SINFO = """\
main*|up|infinite|1|idle
main*|up|infinite|1|drained
short|up|10:00|2|mixed
short|up|10:00|1|down*
days|up|2-00:00:00|4|allocated
off|down|infinite|2|idle
"""


@pytest.mark.parametrize(
    ("stderr", "mend"),
    [
        ("sbatch: error: invalid partition specified: x\n"
         "allocation failure: Invalid partition name specified", "set profile.partition"),
        ("allocation failure: Requested node configuration is not available", "gpus_per_node"),
        ("allocation failure: Invalid account or account/partition combination specified",
         "set profile.account"),
        ("allocation failure: Job violates accounting/QOS policy (job submit limit, …)",
         "ask for less"),
        ("allocation failure: Invalid qos specification", "set profile.qos"),
        ("allocation failure: Invalid feature specification", "set profile.constraint"),
        ("allocation failure: Invalid node name specified", "fix profile.exclude"),
        ("sbatch: unrecognized option '--bogus=1'\nTry \"sbatch --help\" for more information",
         "fix the profile"),
        ("", "no reason was given; fix the profile"),
    ],
)  # fmt: skip
def test_a_refusal_is_one_line_that_says_how_to_mend_it(stderr: str, mend: str) -> None:
    (line,) = admission.judge(1, stderr, waits=False).problems
    assert line.startswith("SLURM refuses the job: ") and mend in line
    assert "\n" not in line and "Try" not in line and "error:" not in line


def test_of_a_job_that_slurm_would_take_it_is_told_when_it_would_start() -> None:
    said = "sbatch: Job 2 to start at 2026-11-25T07:35:48 using 2 processors on nodes d[1-2] in x"
    report = admission.judge(0, said, waits=False)
    assert report.notes == ["SLURM would start the job at 2026-11-25T07:35:48 on d[1-2]"]
    assert not report.problems


def test_nodes_that_are_down_make_a_job_wait_and_are_no_mistake() -> None:
    said = "allocation failure: Requested node configuration is not available"
    assert admission.judge(1, said, waits=True).problems == []
    assert admission.judge(1, said, waits=False).problems
    assert admission.judge(1, "Invalid qos specification", waits=True).problems


@pytest.mark.parametrize(
    ("partition", "minutes", "nodes", "problem", "note"),
    [
        (None, 60, 1, "", ""),
        (None, 60, 2, "", "partition main has 1 node(s) in service"),
        (None, 60, 3, "", ""),
        ("short", 10, 2, "", ""),
        ("short", 11, 2, "partition short allows 10 min", ""),
        ("short", 10, 3, "", "has 2 node(s)"),
        ("short,days", 2880, 6, "", ""),
        ("short,days", 2881, 6, "allows 2880 min", ""),
        ("short,main", 2881, 1, "", ""),
        ("off", 60, 1, "", "partition off has 0 node(s)"),
        ("unheard-of", 60, 1, "", ""),
    ],
)
def test_a_partition_that_would_never_run_the_job_is_told_from_one_that_waits(
    partition: str | None, minutes: int, nodes: int, problem: str, note: str
) -> None:
    report = admission.partition(partition, minutes, nodes, SINFO)
    for lines, wanted in ((report.problems, problem), (report.notes, note)):
        assert len(lines) == bool(wanted)
        assert all(wanted in line for line in lines)


@given(st.text())
def test_whatever_slurm_says_becomes_a_line(text: str) -> None:
    (line,) = admission.judge(1, text, waits=False).problems
    assert len(line.splitlines()) == 1
    admission.partition(None, 1, 1, text)


def ask(**profile: object) -> tuple[bool, list[str], list[str]]:
    wanted = Profile.model_validate({"cpus_per_task": 1, "gpus_per_node": 0, **profile})
    given = parameters(wanted, "asked", Path.cwd())
    answers, report = admission.ask(wanted, script_text(given, "python", Path("/nowhere")))
    return answers, report.problems, report.notes


@pytest.mark.slurm
def test_the_cluster_says_when_a_job_would_start(cluster: Cluster) -> None:
    answers, problems, (note,) = ask(nodes=2, gpus_per_node=2)
    assert answers and not problems and "would start" in note and "n[1-2]" in note
    assert cluster.queue() == []


@pytest.mark.slurm
@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ({"partition": "nope"}, ["invalid partition specified: nope", "sinfo"]),
        ({"gpus_per_node": 3}, ["node configuration is not available", "gpus_per_node"]),
        ({"nodes": 3}, ["profile.nodes"]),
        ({"cpus_per_task": 5}, ["cpus_per_task"]),
        ({"memory_gb": 100}, ["memory_gb"]),
        ({"constraint": "h100"}, ["feature", "profile.constraint"]),
        ({"exclude": "nope"}, ["profile.exclude"]),
        ({"sbatch": {"bogus": 1}}, ["unrecognized option '--bogus=1'"]),
    ],
)
def test_the_cluster_refuses_what_it_does_not_have(
    cluster: Cluster, profile: dict[str, object], words: list[str]
) -> None:
    _, (problem,), _ = ask(**profile)
    for word in words:
        assert word in problem


@pytest.mark.slurm
def test_a_drained_node_makes_the_job_wait_and_a_limit_makes_it_wait_for_ever(
    cluster: Cluster,
) -> None:
    cluster.run("scontrol", "update", "nodename=n2", "state=drain", "reason=test")
    cluster.run("scontrol", "update", "partition=preempt", "maxtime=10")
    try:
        _, problems, notes = ask(nodes=2, partition="main")
        assert problems == [] and "1 node(s) in service" in notes[0]
        _, problems, _ = ask(time="0:11:00", partition="preempt")
        assert len(problems) == 1 and "allows 10 min at most" in problems[0]
    finally:
        cluster.run("scontrol", "update", "nodename=n2", "state=resume")
        cluster.run("scontrol", "update", "partition=preempt", "maxtime=infinite")
