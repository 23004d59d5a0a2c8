"""What `make soak` draws from its seed, and how it sums up what came of it."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.soak import EVERY, FAULTS, KINDS, RANKS, STEPS, Drawn, Outcome, bound, draw, table


@given(seed=st.integers(0, 2**32), number=st.integers(0, 20))
def test_a_round_is_a_function_of_its_seed_and_number(seed: int, number: int) -> None:
    drawn = draw(seed, number)
    assert drawn == draw(seed, number)
    assert len(drawn) == FAULTS
    assert all(0 <= fault.rank < sum(RANKS) for fault in drawn)
    steps = [fault.step for fault in drawn]
    gaps = [after - before for before, after in zip([0, *steps], [*steps, STEPS], strict=True)]
    assert min(gaps) > 2 * EVERY, "there is a newer checkpoint between any two"


@given(seed=st.integers(0, 2**32))
def test_rounds_meet_each_kind_equally_often(seed: int) -> None:
    met = Counter(fault.kind for number in range(len(KINDS)) for fault in draw(seed, number))
    assert met == dict.fromkeys(KINDS, FAULTS)


def test_other_seeds_draw_other_faults() -> None:
    assert len({tuple(draw(seed, 0)) for seed in range(50)}) == 50


@pytest.mark.parametrize(
    ("kind", "steps"), [("full", 0), ("preempted", 0), ("killed", EVERY), ("torn", 2 * EVERY)]
)
def test_a_fault_may_cost_the_steps_since_the_last_checkpoint(kind: str, steps: int) -> None:
    assert bound(kind) == steps


def test_the_table_has_a_line_for_each_kind_met() -> None:
    def outcome(seconds: float, again: int, equal: bool) -> Outcome:
        return Outcome(Drawn("killed", 30, 1), seconds, again, 0, equal)

    lines = table([outcome(2, 1, True), outcome(9, 3, True), outcome(4, 0, False)]).splitlines()
    assert lines[2:] == ["| a rank is killed | 3 | 4.0 s | 9.0 s | 3 | 2 of 3 |"]
