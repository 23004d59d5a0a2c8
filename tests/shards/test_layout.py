from collections import Counter
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pattlite_dist.errors import UserError
from pattlite_dist.shards import layout
from pattlite_dist.shards.manifest import SPLIT_NAMES, Options
from pattlite_dist.shards.survey import (
    SEEN_BLANK,
    SEEN_CONVERTED,
    SEEN_NEAR_BLANK,
    UNSPLIT,
    Survey,
)

CHOICES = list(product(("flag", "keep", "drop"), ("flag", "keep", "drop-train")))
PARTS = ("val", "test")


def survey_of(
    images: list[int], labels: list[int], splits: list[int], seen: list[int] | None = None
) -> Survey:
    number = len(images)
    return Survey(
        rows=np.arange(number) * 3 + 1,
        labels=np.array(labels, np.int64),
        splits=np.array(splits, np.int8),
        groups=np.full(number, -1, np.int64),
        digests=np.array([(image, 0) for image in images], np.uint64).reshape(-1, 2),
        seen=np.array(seen or [0] * number, np.uint8),
        facts=[],
    )


@st.composite
def surveys(draw: st.DrawFn) -> Survey:
    number = draw(st.integers(1, 25))

    def column(values: Any) -> list[int]:
        return draw(st.lists(values, min_size=number, max_size=number))

    near = st.sampled_from([0, 0, SEEN_BLANK, SEEN_NEAR_BLANK, SEEN_CONVERTED])
    survey = survey_of(
        column(st.integers(0, 12)), column(st.integers(0, 2)), column(st.integers(0, 2)),
        column(near),
    )  # fmt: skip
    survey.splits[0], survey.seen[0], survey.digests[0] = 0, 0, 99  # so that train is not empty
    return survey


@pytest.mark.parametrize(("blanks", "leaks"), CHOICES)
@given(survey=surveys())
def test_decisions_are_those_of_a_search_through_all_pairs(
    survey: Survey, blanks: Any, leaks: Any
) -> None:
    decided = layout.decide(survey, Options(blanks=blanks, leaks=leaks), PARTS)
    images = survey.digests[:, 0].tolist()
    train = [split == 0 for split in survey.splits]
    blank = [bool(seen & SEEN_BLANK) for seen in survey.seen]
    near = [bool(seen & SEEN_NEAR_BLANK) for seen in survey.seen]
    kept = []
    for index, image in enumerate(images):
        elsewhere = any(images[other] == image and not train[other] for other in range(len(images)))
        dropped = train[index] and (
            (blanks == "drop" and (blank[index] or near[index]))
            or (leaks == "drop-train" and elsewhere)
        )
        kept.append(not dropped)
    leak = [
        leaks != "keep"
        and not train[index]
        and any(images[j] == image and train[j] and kept[j] for j in range(len(images)))
        for index, image in enumerate(images)
    ]
    assert decided.splits.tolist() == survey.splits.tolist()
    assert decided.kept.tolist() == kept
    assert decided.leak.tolist() == leak
    assert decided.blank.tolist() == [blanks != "keep" and mark for mark in blank]
    assert decided.near_blank.tolist() == [blanks != "keep" and mark for mark in near]
    if leaks == "drop-train":
        assert not decided.leak.any()
    _check_findings(survey, decided)
    _check_identical(survey, decided)


def _check_findings(survey: Survey, decided: layout.Layout) -> None:
    findings = layout.findings(survey, decided)
    images, rows = survey.digests[:, 0].tolist(), survey.rows.tolist()
    for place, name in enumerate(SPLIT_NAMES):
        mine = [index for index in range(len(rows)) if decided.splits[index] == place]
        kept = [index for index in mine if decided.kept[index]]

        def seen(bit: int, among: list[int]) -> list[int]:
            return [rows[index] for index in among if survey.seen[index] & bit]

        assert findings[name].model_dump() == {
            "blank_rows": seen(SEEN_BLANK, mine),
            "near_blank_rows": seen(SEEN_NEAR_BLANK, mine),
            "dropped_rows": [rows[index] for index in mine if not decided.kept[index]],
            "leaks": sum(bool(decided.leak[index]) for index in kept),
            "copies": len(kept) - len({images[index] for index in kept}),
            "conflicts": sum(_conflict(survey, index) for index in kept),
            "converted": len(seen(SEEN_CONVERTED, kept)),
        }


def _conflict(survey: Survey, index: int) -> bool:
    same = survey.digests[:, 0] == survey.digests[index, 0]
    return len(set(survey.labels[same].tolist())) > 1


def _check_identical(survey: Survey, decided: layout.Layout) -> None:
    counts = Counter(survey.digests[:, 0].tolist())
    torn = [index for index in range(len(survey)) if _conflict(survey, index)]
    assert layout.identical(decided.copies).model_dump() == {
        "distinct": len(counts),
        "groups": sum(count > 1 for count in counts.values()),
        "copies": sum(count - 1 for count in counts.values()),
        "conflicting_groups": len({int(survey.digests[index, 0]) for index in torn}),
        "conflicting_samples": len(torn),
    }


@given(survey=surveys(), size=st.integers(1, 8), blanks=st.sampled_from(["flag", "drop"]))
def test_shards_take_the_kept_samples_in_order(survey: Survey, size: int, blanks: Any) -> None:
    decided = layout.decide(survey, Options(blanks=blanks), PARTS)
    plans = layout.plan_shards(decided, size)
    for place, split in enumerate(SPLIT_NAMES):
        mine = [plan for plan in plans if plan.split == split]
        wanted = [i for i in range(len(survey)) if decided.splits[i] == place and decided.kept[i]]
        assert [index for plan in mine for index in plan.samples.tolist()] == wanted
        assert [plan.name for plan in mine] == [
            f"{split}-{number:06d}.tar" for number in range(len(mine))
        ]
        assert all(len(plan.samples) == size for plan in mine[:-1])
        assert all(1 <= len(plan.samples) <= size for plan in mine)
    assert [plan.split for plan in plans] == sorted(
        (plan.split for plan in plans), key=SPLIT_NAMES.index
    )


def test_samples_without_a_split_are_cut_and_the_others_stay() -> None:
    number = 300
    images = [index // 2 for index in range(number)]  # pairs, which are never separated
    splits = [UNSPLIT] * 200 + [0] * 50 + [2] * 50
    survey = survey_of(images, [index % 3 for index in range(number)], splits)
    options = Options(val_fraction=0.2, test_fraction=0.1)
    decided = layout.decide(survey, options, PARTS)
    assert decided.splits[200:].tolist() == splits[200:]
    assert np.bincount(decided.splits[:200]).tolist() == [140, 40, 20]
    assert (decided.splits[0:200:2] == decided.splits[1:200:2]).all()
    assert not decided.leak.any()
    only_val = layout.decide(survey, options, ("val",))
    assert np.bincount(only_val.splits[:200]).tolist() == [160, 40]
    other = layout.decide(survey, options.model_copy(update={"seed": 1}), PARTS)
    assert (other.splits != decided.splits).any()


def test_a_person_is_never_parted_by_the_cut() -> None:
    survey = survey_of(list(range(60)), [0, 1] * 30, [UNSPLIT] * 60)
    survey.groups[:] = np.arange(60) % 12
    decided = layout.decide(survey, Options(val_fraction=0.25, test_fraction=0.25), PARTS)
    for person in range(12):
        assert len(set(decided.splits[survey.groups == person].tolist())) == 1
    assert set(decided.splits.tolist()) == {0, 1, 2}


def test_a_cut_larger_than_the_whole_is_refused() -> None:
    survey = survey_of([0, 1, 2], [0, 1, 1], [0, UNSPLIT, UNSPLIT])
    options = Options(val_fraction=0.5, test_fraction=0.5)
    with pytest.raises(UserError, match="leaving none for train; give a smaller --val-fraction"):
        layout.decide(survey, options, PARTS)
    layout.decide(survey, options, ("val",))


def test_samples_that_are_too_few_to_cut_are_refused() -> None:
    survey = survey_of([0, 1, 2], [0, 1, 2], [UNSPLIT] * 3)
    with pytest.raises(UserError, match=r"3 samples are too few to cut val .* --val-fraction"):
        layout.decide(survey, Options(), PARTS)
    with pytest.raises(UserError, match=r"too few to cut test .* that has a test split"):
        layout.decide(survey, Options(val_fraction=0.5), PARTS)
    # Nothing is cut if the source has its own splits.
    layout.decide(survey_of([0, 1], [0, 1], [0, 1]), Options(), PARTS)


def test_a_set_without_train_is_refused() -> None:
    for splits, options in (
        ([1, 2], Options()),
        ([0, 2], Options(leaks="drop-train")),
    ):
        with pytest.raises(UserError, match="no sample is left for train"):
            layout.decide(survey_of([0, 0], [0, 1], splits), options, PARTS)


def test_a_samples_own_facts_come_along() -> None:
    survey = survey_of([5, 5], [0, 1], [0, 1])
    survey.facts.extend([{"file": "a.png"}, {"file": "b.png", "subject": "S005"}])
    decided = layout.decide(survey, Options(), PARTS)
    assert decided.facts(1, survey, ("cat", "dog")) == {
        "file": "b.png", "subject": "S005", "row": 4, "split": "val", "label": "dog",
        "blank": False, "near_blank": False, "leak": True, "copies": 2, "conflict": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("splits", "parts", "cut", "loose"),
    [
        ([0, 0, 0], PARTS, ("val", "test"), [-1, -1, -1]),
        ([0, 0, 2], PARTS, ("val",), [-1, -1, 2]),
        ([0, 1, 0], PARTS, ("test",), [-1, 1, -1]),
        ([0, 1, 2], PARTS, (), [0, 1, 2]),
        ([0, 0, 2], (), (), [0, 0, 2]),
        ([-1, -1, 2], ("val",), ("val",), [-1, -1, 2]),
        ([-1, 0, 0], PARTS, PARTS, [-1, 0, 0]),
    ],
)
def test_a_split_that_no_sample_is_in_is_cut_from_train(
    splits: list[int], parts: Any, cut: Any, loose: list[int]
) -> None:
    survey = survey_of([1, 2, 3], [0, 0, 0], splits)
    found, lacking = layout.loosened(survey, parts)
    assert lacking == cut
    assert found.splits.tolist() == loose
    assert survey.splits.tolist() == splits
