import pytest
from hypothesis import given
from hypothesis import strategies as st

from pattlite_dist.train.names import make_name, parse_name, superfluous

scores = st.none() | st.integers(0, 10000).map(lambda i: i / 10000)


@given(st.integers(0, 10**5), st.integers(0, 10**9), scores)
def test_a_name_says_what_it_was_made_from(epoch: int, step: int, top1: float | None) -> None:
    found = parse_name(make_name(epoch, step, top1))
    assert found is not None
    assert (found.epoch, found.step) == (epoch, step)
    assert found.top1 == pytest.approx(-1 if top1 is None else top1, abs=5e-5)


@pytest.mark.parametrize("name", ["last.ckpt", "epoch=1-step=2.ckpt.tmp", ".epoch=1-step=2.ckpt"])
def test_other_files_are_no_checkpoints(name: str) -> None:
    assert parse_name(name) is None


@given(
    st.lists(st.tuples(st.integers(1, 500), scores), unique_by=lambda i: i[0]), st.integers(1, 4)
)
def test_the_two_newest_and_the_best_are_always_kept(
    items: list[tuple[int, float | None]], keep: int
) -> None:
    names = [make_name(0, step, top1) for step, top1 in items]
    kept = sorted(set(names) - set(superfluous(names, keep)))
    assert len(kept) <= keep + 2
    for item in sorted(items, key=lambda i: i[0])[-2:]:
        assert make_name(0, *item) in kept
    scored = [(top1, -step) for step, top1 in items if top1 is not None]
    for top1, step in sorted(scored, reverse=True)[:keep]:
        assert make_name(0, -step, top1) in kept
    assert superfluous([*kept, "notes.txt"], keep) == []
