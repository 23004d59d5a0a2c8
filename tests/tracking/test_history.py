import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pattlite_dist.tracking.history import (
    HISTORY_NAME,
    Standing,
    append,
    job_id,
    note_failed,
    of_this_start,
    read,
    standing,
    submissions,
)
from tests.threads import at_once


def events(*pairs: tuple[str, dict[str, Any]] | str) -> list[dict[str, Any]]:
    """Events in order, a second apart, from job 12 unless they say otherwise."""
    made = []
    for moment, pair in enumerate(pairs):
        name, facts = (pair, {}) if isinstance(pair, str) else pair
        made.append({"event": name, "time": float(moment), "job": "12", **facts})
    return made


def test_a_job_is_named_as_users_write_it() -> None:
    assert job_id({}) is None
    assert job_id({"SLURM_JOB_ID": "12"}) == "12"
    inside = {"SLURM_JOB_ID": "17", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3"}
    assert job_id(inside) == "12_3"


def test_events_are_read_back_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    begin = time.time()
    append(tmp_path, "submitted", job="12", kind="train")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    append(tmp_path, "started", step=5, ranks=4)
    first, second = read(tmp_path)
    assert (first["event"], first["job"], first["kind"]) == ("submitted", "12", "train")
    assert (second["event"], second["job"], second["restart"]) == ("started", "12", 2)
    assert second["step"] == 5
    assert begin - 1 < first["time"] <= second["time"] < time.time() + 1


def test_no_history_is_an_empty_one(tmp_path: Path) -> None:
    assert read(tmp_path) == []
    assert standing([]) == Standing()
    assert standing([]).last == "none"


def test_lines_that_a_crash_damaged_are_left_out(tmp_path: Path) -> None:
    append(tmp_path, "started", step=0)
    with (tmp_path / HISTORY_NAME).open("ab") as stream:
        stream.write(b'{"event": "stop\n\x00\xff\xfe\n[1]\n"started"\n{"step": 3}\n')
    append(tmp_path, "finished", step=9)
    assert [event["event"] for event in read(tmp_path)] == ["started", "finished"]


def test_a_run_that_was_stopped_and_goes_on() -> None:
    history = events(
        ("submitted", {"kind": "train"}),
        ("started", {"step": 0, "epochs": 30, "steps_per_epoch": 224}),
        "first_step",
        ("stopped", {"step": 40, "signal": "SIGTERM"}),
        "requeued",
        ("started", {"step": 40, "epochs": 30, "steps_per_epoch": 224}),
    )
    assert standing(history[:4]) == Standing(
        "12", True, "stopped", 1, 40, "SIGTERM", 30, 224, begin=1.0, end=3.0, jobs=("12",)
    )
    assert standing(history) == Standing(
        "12", True, "started", 2, 40, "", 30, 224, 5.0, 5.0, ("12",)
    )


def test_the_step_is_the_newest_told_even_if_it_is_lower() -> None:
    history = events(("stopped", {"step": 57}), ("started", {"step": 50}), "first_step")
    assert standing(history).step == 50


def test_an_evaluation_is_not_a_run_s_training_job() -> None:
    history = events(
        ("submitted", {"kind": "train"}),
        ("finished", {"step": 9}),
        ("submitted", {"job": "13", "kind": "evaluate"}),
    )
    assert standing(history)[:3] == ("12", True, "finished")
    assert submissions(history) == {"12": "train", "13": "evaluate"}


def test_a_later_start_outside_of_slurm_has_no_job() -> None:
    history = events("submitted", "failed", ("started", {"job": None}))
    assert standing(history)[:3] == (None, False, "started")


def test_an_interactive_job_was_not_submitted() -> None:
    history = events("submitted", ("started", {"job": "15"}))
    assert standing(history)[:3] == ("15", False, "started")
    assert submissions(history) == {"12": "train"}


@pytest.mark.parametrize(
    ("names", "last"),
    [
        (["submitted", "cancelled"], "cancelled"),
        (["submitted", "started", "cancelled", "stopped"], "cancelled"),
        (["submitted", "started", "stopped", "cancelled"], "cancelled"),
        (["submitted", "started", "cancelled", "finished"], "finished"),
        (["submitted", "started", "finished", "cancelled"], "finished"),
        (["submitted", "cancelled", "submitted"], "submitted"),
        (["submitted", "started", "cancelled", "stopped", "started"], "started"),
        (["submitted", "started", "cancelled", "planned", "stopped"], "cancelled"),
    ],
)
def test_a_cancelled_job_may_still_say_how_it_left(names: list[str], last: str) -> None:
    assert standing(events(*names)).last == last


def test_a_failure_is_noted_once_and_this_start_s_events_are_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    for restart, error in enumerate(("lost", "lost", "gone")):
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))
        append(tmp_path, "started", step=restart)
        for _ in range(2):
            note_failed(tmp_path, error, final=restart == 2)
    told = read(tmp_path)
    assert [event.get("error") for event in told] == [None, "lost", None, "lost", None, "gone"]
    assert of_this_start(told) == told[-2:]
    assert [event.get("final") for event in told][-3:] == [None, None, True]


def test_a_run_knows_its_jobs_and_what_the_newest_waited_for() -> None:
    history = events(("submitted", {"after": "9"}), ("submitted", {"job": "14"}))
    assert standing(history[:1])[-2:] == (("12",), "9")
    assert standing(history)[-2:] == (("12", "14"), None)


def test_the_reason_is_the_newest_event_s() -> None:
    history = events(("failed", {"error": "no GPU"}), "submitted")
    assert standing(history[:1]).reason == "no GPU"
    assert standing(history).reason == ""
    assert standing(events(("finished", {"reason": "no better"}))).reason == "no better"


def test_the_epochs_are_those_last_planned() -> None:
    history = events(("started", {"epochs": 30}), ("planned", {"epochs": 11}), "first_step")
    assert standing(history).epochs == 11


plain = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
names = st.sampled_from(["submitted", "started", "stopped", "finished", "cancelled", "new"])


@given(
    st.lists(
        st.fixed_dictionaries(
            {"event": names},
            optional=dict.fromkeys(["job", "kind", "step", "time", "epochs", "error"], plain),
        )
    )
)
def test_any_events_can_be_summed_up(history: list[dict[str, Any]]) -> None:
    found = standing(history)
    assert found.starts == sum(
        event["event"] == "started" and event.get("kind", "train") == "train" for event in history
    )
    assert isinstance(found.step, int)
    assert json.dumps(found)


def test_threads_that_note_the_same_failure_at_once_note_it_once(tmp_path: Path) -> None:
    """The watchdog of rank 0, and its thread that hears of the failures of others."""
    at_once(8, lambda _: note_failed(tmp_path, "rank 1 hung", final=False))
    assert len(read(tmp_path)) == 1
