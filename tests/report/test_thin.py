from hypothesis import given
from hypothesis import strategies as st

from pattlite_dist.report.thin import evenly, smooth, thin

VALUES = st.lists(st.floats(-1e3, 1e3), max_size=60)


@given(VALUES, st.integers(4, 20))
def test_the_ends_and_the_extremes_are_kept_in_order(values: list[float], most: int) -> None:
    places = list(range(len(values)))
    kept = thin(places, values, most)
    assert kept == sorted(set(kept)) and len(kept) <= max(most, 2)
    if values:
        assert (kept[0], kept[-1]) == (0, len(values) - 1)
        of_kept = [values[place] for place in kept]
        assert (min(of_kept), max(of_kept)) == (min(values), max(values))
    if len(values) <= most:
        assert kept == places


@given(VALUES, st.integers(0, 9))
def test_a_running_mean_is_that_of_as_many_to_both_sides(values: list[float], wide: int) -> None:
    found = smooth(values, wide)
    assert len(found) == len(values)
    for place, mean in enumerate(found):
        reach = min(wide, place, len(values) - 1 - place)
        part = values[place - reach : place + reach + 1]
        assert abs(mean - sum(part) / len(part)) < 1e-6


def test_places_are_evenly_spread() -> None:
    assert evenly(3, 5) == [0, 1, 2]
    assert evenly(9, 5) == [0, 2, 4, 6, 8]
    assert evenly(0, 5) == []
