import pytest
from hypothesis import given
from hypothesis import strategies as st

from pattlite_dist.slurm.jobinfo import (
    ENDED,
    SACCT_FIELDS,
    SQUEUE_FIELDS,
    JobInfo,
    parse_exit,
    parse_max_array_size,
    parse_sacct,
    parse_seconds,
    parse_squeue,
)

# As SLURM 22.05 printed them.
SQUEUE = """\
9|N/A|9|COMPLETED|None|0|2:00|1|0|main|
1|N/A|1|FAILED|NonZeroExitCode|0|2:00|1|768|main|
2|N/A|2|FAILED|JobLaunchFailure|0|2:00|1|9|main|
3|0|6|FAILED|NonZeroExitCode|0|5:00|1|256|main|
3|3-5%2|3|PENDING|JobArrayTaskLimit|0|5:00|1|0|main|
4|N/A|4|PENDING|BeginTime|0|5:00|2|0|main|
14|N/A|14|COMPLETING|None|1|4:59|1|0|main|
3|2|8|RUNNING|None|2|1-04:31:00|1|0|preempt|
"""
SACCT = """\
12|12|CANCELLED by 1000|1|0:15|main
13_1|15|FAILED|2|3:0|gpu
13_[2-3%1]|13|CANCELLED by 0|1|0:0|gpu
14|14|RUNNING|1|0:0|main
"""


def squeue_line(**fields: str) -> str:
    values = dict.fromkeys(SQUEUE_FIELDS, "") | fields
    return "".join(f"{values[name]}|" for name in SQUEUE_FIELDS) + "\n"


def test_squeue_is_read_job_by_job() -> None:
    found = parse_squeue(SQUEUE)
    assert set(found) == {"9", "1", "2", "3_0", "3_3", "3_4", "3_5", "4", "14", "3_2"}
    assert found["3_2"] == JobInfo(
        "3_2", "8", "RUNNING", "", 2, ((24 + 4) * 60 + 31) * 60, 1, None, "preempt"
    )
    assert found["3_4"] == JobInfo(
        "3_4", "3", "PENDING", "JobArrayTaskLimit", 0, 300, 1, None, "main"
    )
    assert found["9"].exit_code == 0
    assert found["9"].left is None  # what squeue prints there is the limit
    assert (found["1"].exit_code, found["1"].reason) == (3, "NonZeroExitCode")
    assert found["2"].exit_code == 128 + 9
    assert (found["14"].restarts, found["14"].live) == (1, True)


@pytest.mark.parametrize(
    ("indices", "members"),
    [
        ("0-3", [0, 1, 2, 3]),
        ("3-5%2", [3, 4, 5]),
        ("0,3,7", [0, 3, 7]),
        ("1-2,9", [1, 2, 9]),
        ("7-12:2", [7, 9, 11]),
        ("7-12:0", [7, 8, 9, 10, 11, 12]),
        ("[0-1%1]", [0, 1]),
        ("4", [4]),
        ("0-2,4,...", [0, 1, 2, 4]),
    ],
)
def test_a_waiting_part_of_an_array_is_one_line_and_many_jobs(
    indices: str, members: list[int]
) -> None:
    line = squeue_line(ArrayJobID="12", ArrayTaskID=indices, JobID="12", State="PENDING")
    assert list(parse_squeue(line)) == [f"12_{member}" for member in members]


def test_a_state_that_no_version_had_yet_counts_as_life() -> None:
    found = parse_squeue(squeue_line(ArrayJobID="1", ArrayTaskID="N/A", State="LEVITATING"))
    assert found["1"].live
    assert not any(JobInfo("1", "1", state).live for state in ENDED)


def test_blank_fields_are_not_known_and_lines_that_do_not_fit_are_left_out() -> None:
    text = "CLUSTER: a\n\nslurm_load_jobs error\n1|RUNNING\n" + squeue_line(ArrayJobID="7")
    assert parse_squeue(text) == {"7": JobInfo("7", "", "UNKNOWN")}
    assert parse_sacct("CLUSTER: a\n\n|||||\n8|8|TIMEOUT|||\n") == {
        "8": JobInfo("8", "8", "TIMEOUT")
    }


def test_sacct_tells_only_of_jobs_that_ended() -> None:
    assert parse_sacct(SACCT) == {
        "12": JobInfo("12", "12", "CANCELLED", nodes=1, exit_code=128 + 15, partition="main"),
        "13_1": JobInfo("13_1", "15", "FAILED", nodes=2, exit_code=3, partition="gpu"),
        "13_2": JobInfo("13_2", "13", "CANCELLED", nodes=1, exit_code=0, partition="gpu"),
        "13_3": JobInfo("13_3", "13", "CANCELLED", nodes=1, exit_code=0, partition="gpu"),
    }


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0:00", 0),
        ("4:31", 271),
        ("1:00:00", 3600),
        ("2-03:04:05", ((2 * 24 + 3) * 60 + 4) * 60 + 5),
        ("UNLIMITED", None),
        ("NOT_SET", None),
        ("INVALID", None),
        ("N/A", None),
        ("-1:00", None),
        ("", None),
    ],
)
def test_times_are_read(text: str, seconds: int | None) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize(
    ("text", "code"),
    [("0", 0), ("768", 3), ("9", 137), ("35072", 137), ("0:0", 0), ("3:0", 3), ("0:15", 143),
     ("1:9", 1), ("", None), ("N/A", None), ("-1", None)],
)  # fmt: skip
def test_exit_codes_are_read(text: str, code: int | None) -> None:
    assert parse_exit(text) == code


def test_the_largest_array_is_read() -> None:
    text = "MaxArrayTasks           = 7\nMaxArraySize            = 1001\nMaxBatchRequeue = 5\n"
    assert parse_max_array_size(text) == 1001
    assert parse_max_array_size("slurm_load_ctl_conf error: Unable to contact") is None


def test_users_may_mean_a_job_by_its_array_and_by_its_number() -> None:
    assert JobInfo("12_3", "17", "RUNNING").names == {"12", "12_3", "17"}
    assert JobInfo("12", "12", "RUNNING").names == {"12"}


@given(st.sets(st.integers(0, 200), min_size=1), st.integers(1, 10**7))
def test_any_set_of_indices_is_read_back(members: set[int], base: int) -> None:
    indices = ",".join(map(str, sorted(members)))
    line = squeue_line(ArrayJobID=str(base), ArrayTaskID=indices, State="PENDING", TimeLeft="1:00")
    assert list(parse_squeue(line)) == [f"{base}_{member}" for member in sorted(members)]


TOKENS = [
    "",
    "0",
    "12",
    "3-5%2",
    "[1,",
    "]",
    "N/A",
    "1:0",
    "-",
    "%",
    ":",
    "RUNNING",
    "\n",
    "²",
    " ",
]
tokens = st.lists(st.sampled_from(TOKENS), max_size=3).map("".join)


@given(st.lists(tokens, max_size=30).map("|".join))
def test_no_text_breaks_a_parser(text: str) -> None:
    for parse in (parse_squeue, parse_sacct):
        for job, info in parse(text).items():
            assert job == info.job
    for word in text.split("|"):
        assert (parse_seconds(word) or 0) >= 0
        assert (parse_exit(word) or 0) >= 0


def test_as_many_fields_are_read_as_are_asked_for() -> None:
    cells = [f"cell{number}" for number in range(len(SACCT_FIELDS))]
    cells[0], cells[2] = "5", "FAILED"
    assert parse_sacct("|".join(cells))["5"].partition == cells[SACCT_FIELDS.index("Partition")]
