import math
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pattlite_dist.runtime import pulse as pulses
from pattlite_dist.runtime.pulse import Beat, Limits, Phase, Pulse, culprits, window_of

PHASES = get_args(Phase)


def lived(clock: pytest.MonkeyPatch, *phases: tuple[Phase, float]) -> Pulse:
    """One that went through phases of so many seconds, and began the last of these again."""
    moment = 1000.0
    clock.setattr(pulses.time, "monotonic", lambda: moment)
    pulse = Pulse()
    for phase, seconds in phases:
        pulse.begin(phase, 7)
        moment += seconds
    pulse.begin(phases[-1][0], 7)
    return pulse


def test_a_phase_is_timed_by_its_slowest_and_pauses_do_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pulse = lived(monkeypatch, ("step", 3), ("data", 1), ("step", 2))
    assert pulse.slowest == {"step": 3, "data": 1}
    assert pulse.seen == {"start": 1, "step": 2, "data": 1}
    assert pulse.seconds(1016.0) == 10
    pulse.paused += 8
    assert pulse.seconds(1016.0) == 2
    pulse.begin("data", 8)
    assert pulse.seconds(1006.0) == 0, "the pause was in the step"


def test_what_is_inside_of_a_phase_is_no_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pulse = lived(monkeypatch, ("step", 1))
    with pulse.within("save", 7):
        assert pulse.now.phase == "save"
    assert pulse.now.phase == "step"


@pytest.mark.parametrize(
    ("phases", "hang", "alone", "seconds"),
    [
        ([("step", 1)], None, False, 120),  # at least two minutes
        ([("step", 20)], None, False, 200),
        ([("step", 20)], None, True, 200),
        ([("step", 400)], None, False, 540),  # at most a little less than the collectives' limit
        ([("validation", 30)], None, True, 300),
        ([("data", 0.01)], None, False, 540),  # a cold cache
        ([("data", 0.01)], None, True, 540),
        ([("save", 0.1)], None, False, 540),  # a slow disk
        ([("save", 0.1)], None, True, math.inf),
        ([("epoch end", 1)], None, False, 540),
        ([("step", 20)], 0.5, False, 30),
        ([("save", 20)], 0.5, True, 30),
        ([("step", 20)], 0, False, math.inf),
    ],
)
def test_how_long_a_phase_may_take(
    phases: list[tuple[Phase, float]], hang: float | None, alone: bool, seconds: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    pulse = lived(monkeypatch, *phases)
    assert Limits(hang, 10, alone).patience(pulse) == seconds


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("hang", [None, 0.1])
def test_the_first_of_a_kind_may_compile(phase: Phase, hang: float | None) -> None:
    pulse = Pulse()
    pulse.now = pulse.now._replace(phase=phase)
    assert Limits(hang, 10, alone=True).patience(pulse) == math.inf
    assert Limits(hang, 10, alone=False).patience(pulse) == 540


def test_compiled_steps_may_be_compiled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pulse = lived(monkeypatch, ("step", 1))
    assert Limits(None, 10, alone=False, steady=False).patience(pulse) == 540


def beats(*told: tuple[Phase, int, bool]) -> list[Beat]:
    return [Beat(rank, *one) for rank, one in enumerate(told)]


def test_who_is_silent_is_to_blame() -> None:
    assert culprits(beats(("step", 4, True), ("data", 4, False)), {1}) == [1]


def test_a_rank_that_takes_its_time_is_waited_for() -> None:
    """It decodes, draws or saves, while the others wait in a step."""
    assert culprits(beats(("step", 4, True), ("data", 4, False)), set()) == []
    assert culprits([], set()) == []


@pytest.mark.parametrize(
    ("told", "blamed"),
    [
        ([("step", 4, True), ("data", 4, True), ("step", 4, True)], [1]),  # its loader
        ([("step", 5, True), ("step", 4, True), ("step", 5, True)], [1]),  # skipped a collective
        ([("save", 4, True), ("save", 4, True)], [0, 1]),
        ([("step", 4, True), ("step", 4, True)], [0, 1]),
    ],
)
def test_where_all_wait_who_is_behind_or_elsewhere_is_to_blame(
    told: list[tuple[Phase, int, bool]], blamed: list[int]
) -> None:
    assert culprits(beats(*told), set()) == blamed


@given(
    st.lists(st.tuples(st.sampled_from(PHASES), st.integers(0, 9), st.booleans()), min_size=1),
    st.sets(st.integers(0, 3)),
)
def test_there_is_one_to_blame_exactly_if_all_wait_or_one_is_silent(
    told: list[tuple[Phase, int, bool]], silent: set[int]
) -> None:
    found = culprits(beats(*told), silent)
    assert bool(found) == (bool(silent) or all(over for _, _, over in told))
    assert set(found) <= silent or not silent


@given(st.sampled_from(PHASES), st.floats(min_value=1, max_value=600))
def test_whoever_is_silent_is_named_before_the_collectives_give_up(
    phase: Phase, timeout_minutes: float
) -> None:
    """Also in the first phase of its kind, for which there is no other measure."""
    pulse = Pulse()
    pulse.begin(phase, 1)
    patience = Limits(None, timeout_minutes, alone=False).patience(pulse)
    assert patience + window_of(patience) + 3 < 60 * timeout_minutes, "and three looks"
