import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pattlite_dist.config import parse_config
from pattlite_dist.errors import UserError
from pattlite_dist.train.pace import (
    Change,
    as_scheduled,
    best_epoch,
    changed,
    epochs_that_fit,
    progress,
)
from pattlite_dist.train.rates import lr_relative

STEPS, EPOCHS = 7, 12  # per epoch; as configured
TOTAL = STEPS * EPOCHS
SECONDS = st.floats(0.1, 1000)


@st.composite
def courses(draw: st.DrawFn) -> tuple[list[Change], int]:
    """Decisions at the ends of epochs, and the step at which the last one ends the run."""
    changes: list[Change] = []
    epoch, end = 0, EPOCHS
    while (epoch := epoch + 1) < end:
        end = draw(st.integers(epoch + 1, EPOCHS))
        changes = changed(epoch * STEPS, end * STEPS, TOTAL, changes)
    return changes, end * STEPS


@given(courses())
def test_a_schedule_passes_once_evenly_between_changes_and_ends_with_the_run(
    course: tuple[list[Change], int],
) -> None:
    changes, end = course
    passed = [progress(step, TOTAL, changes) for step in range(end + 1)]
    assert passed[0] == 0
    assert passed[-1] == 1
    assert all(later > earlier for earlier, later in itertools.pairwise(passed))
    steps = {change.step for change in changes}
    for step in range(1, end):  # the speed only changes where it was decided to
        bend = passed[step + 1] - 2 * passed[step] + passed[step - 1]
        assert step in steps or abs(bend) < 1e-9


@given(courses(), st.integers(0, TOTAL))
def test_what_is_decided_later_changes_nothing_before(
    course: tuple[list[Change], int], step: int
) -> None:
    changes, _ = course
    known = [change for change in changes if change.step <= step]
    assert as_scheduled(step, TOTAL, changes) == as_scheduled(step, TOTAL, known)
    # And so neither does the moment of a decision: there, both speeds give the same rate.
    if known:
        before = as_scheduled(known[-1].step, TOTAL, known[:-1])
        assert as_scheduled(known[-1].step, TOTAL, known) == pytest.approx(before)


@given(st.integers(0, TOTAL))
def test_a_schedule_that_is_not_changed_has_the_very_same_steps(step: int) -> None:
    assert as_scheduled(step, TOTAL, []) is step
    assert changed(step, TOTAL, TOTAL, []) == []


@pytest.mark.parametrize("schedule", ["cosine", "inverse_time", "constant"])
def test_a_shortened_run_ends_at_the_rate_of_a_whole_one(schedule: str) -> None:
    config = parse_config(
        {"trainer": {"epochs": EPOCHS}, "optim": {"schedule": schedule, "warmup_epochs": 1.5}}, "it"
    )
    changes = changed(STEPS, 4 * STEPS, TOTAL, [])
    rates = [
        lr_relative(as_scheduled(step, TOTAL, changes), config, STEPS)
        for step in range(4 * STEPS + 1)
    ]
    whole = [lr_relative(step, config, STEPS) for step in range(TOTAL + 1)]
    assert rates[: STEPS + 1] == whole[: STEPS + 1]
    assert rates[-1] == whole[-1]
    assert max(rates) <= 1
    if schedule == "cosine":
        assert rates[-1] == 0
        assert rates[-2] > 0


@given(st.lists(SECONDS, min_size=1, max_size=9), st.floats(0, 1e4), SECONDS, SECONDS)
def test_what_fits_is_over_in_time_if_no_epoch_is_slower_than_the_last_ones(
    durations: list[float], elapsed: float, saving: float, limit: float
) -> None:
    fit = epochs_that_fit(durations, elapsed, saving, limit)
    slowest = max((durations[1:] or durations)[-3:])
    assert fit == 0 or elapsed + fit * slowest + saving <= limit * (1 + 1e-6)
    assert elapsed + (fit + 1) * slowest + saving > limit * (1 - 1e-6)


def test_a_slow_first_epoch_counts_only_until_there_is_another() -> None:
    assert epochs_that_fit([30], 30, 0, 100) == 2
    assert epochs_that_fit([30, 10], 40, 0, 100) == 6
    assert epochs_that_fit([30, 10, 20, 10, 10, 10], 90, 0, 120) == 3
    assert epochs_that_fit([30, 10], 40, 5, 60) == 1
    assert epochs_that_fit([30, 10], 400, 5, 60) == 0


@given(st.lists(st.floats(0, 1), min_size=1), st.floats(0, 0.1))
def test_the_best_epoch_is_the_last_that_was_better_by_more_than_asked(
    scores: list[float], least: float
) -> None:
    best, highest = 0, scores[0]
    for epoch, score in enumerate(scores[1:], 1):
        if score > highest + least:
            best, highest = epoch, score
    assert best_epoch(scores, least) == best
    assert best_epoch(scores, 0) == scores.index(max(scores))


def test_two_schedules_cannot_be_shortened() -> None:
    with pytest.raises(UserError, match=r"finetune\.start_epoch makes two; set one of them"):
        parse_config({"trainer": {"max_minutes": 5}, "finetune": {"start_epoch": 1}}, "it")
