"""Decisions about each sample: its split, its marks, whether it is kept, and in which shard.

Pure functions of the survey of a source and the user's options.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pattlite_dist.errors import UserError
from pattlite_dist.shards.cut import cut
from pattlite_dist.shards.manifest import (
    SPLIT_NAMES,
    Findings,
    Identical,
    Options,
    SplitName,
)
from pattlite_dist.shards.survey import (
    SEEN_BLANK,
    SEEN_CONVERTED,
    SEEN_NEAR_BLANK,
    UNSPLIT,
    Copies,
    Survey,
    find_copies,
)

TRAIN, VAL, TEST = range(3)  # indices into SPLIT_NAMES


@dataclass(frozen=True)
class Layout:
    """Decisions about every sample of a survey.

    Attributes:
        splits: int8 [n], indices into SPLIT_NAMES.
        kept: bool [n]; False for samples left out of the set.
        blank, near_blank, leak: bool [n], the marks in the samples' JSON.
        copies: which samples share an image.
    """

    splits: NDArray[np.int8]
    kept: NDArray[np.bool_]
    blank: NDArray[np.bool_]
    near_blank: NDArray[np.bool_]
    leak: NDArray[np.bool_]
    copies: Copies

    def facts(self, index: int, survey: Survey, labels: tuple[str, ...]) -> dict[str, Any]:
        """A sample's JSON."""
        return {
            **(survey.facts[index] if survey.facts else {}),
            "row": int(survey.rows[index]),
            "split": SPLIT_NAMES[self.splits[index]],
            "label": labels[survey.labels[index]],
            "blank": bool(self.blank[index]),
            "near_blank": bool(self.near_blank[index]),
            "leak": bool(self.leak[index]),
            "copies": int(self.copies.counts[index]),
            "conflict": bool(self.copies.conflict[index]),
        }


@dataclass(frozen=True)
class ShardPlan:
    """One planned shard: its name, and its samples as indices into the survey, int64 [n]."""

    split: SplitName
    name: str
    samples: NDArray[np.int64]


def loosened(survey: Survey, parts: tuple[SplitName, ...]) -> tuple[Survey, tuple[SplitName, ...]]:
    """The survey, and the parts to cut, of a source that names splits but lacks one.

    If every sample has a split, and none is in one of `parts`, the samples of train are to be cut.
    """
    if (survey.splits == UNSPLIT).any():
        return survey, parts
    lacking = tuple(part for part in parts if not (survey.splits == SPLIT_NAMES.index(part)).any())
    if not lacking:
        return survey, ()
    loose = np.where(survey.splits == TRAIN, np.int8(UNSPLIT), survey.splits)
    return replace(survey, splits=loose), lacking


def decide(survey: Survey, options: Options, parts: tuple[SplitName, ...]) -> Layout:
    """Decide about every sample.

    Args:
        survey: of the source.
        options: the user's.
        parts: the splits to cut from samples without one, besides train.

    Raises:
        UserError: nothing is left for train, or a cut takes everything or yields nothing.
    """
    copies = find_copies(survey.digests, survey.labels)
    splits = _split(survey, copies, options, parts)
    blank = (survey.seen & SEEN_BLANK) > 0
    near_blank = (survey.seen & SEEN_NEAR_BLANK) > 0
    in_train = splits == TRAIN
    kept = np.ones(len(survey), bool)
    if options.blanks == "drop":
        kept &= ~(in_train & (blank | near_blank))
    if options.leaks == "drop-train":
        kept &= ~(in_train & _shared(copies, ~in_train))
    leak = ~in_train & _shared(copies, in_train & kept)
    if not (in_train & kept).any():
        raise UserError("no sample is left for train; check the splits of the source")
    return Layout(
        splits=splits,
        kept=kept,
        blank=blank & (options.blanks != "keep"),
        near_blank=near_blank & (options.blanks != "keep"),
        leak=leak & (options.leaks != "keep"),
        copies=copies,
    )


def _split(
    survey: Survey, copies: Copies, options: Options, parts: tuple[SplitName, ...]
) -> NDArray[np.int8]:
    splits: NDArray[np.int8] = survey.splits.copy()
    loose = splits == UNSPLIT
    shares = {"val": options.val_fraction, "test": options.test_fraction}
    fractions = [shares[name] for name in parts]
    if sum(fractions) >= 1:
        raise UserError(
            f"val and test would take {sum(fractions):g} of the samples, leaving none for train; "
            "give a smaller --val-fraction or --test-fraction"
        )
    ties = [copies.group[loose], survey.groups[loose]]
    part = cut(survey.labels[loose], ties, [1 - sum(fractions), *fractions], options.seed)
    places = [TRAIN, *(SPLIT_NAMES.index(name) for name in parts)]
    splits[loose] = np.array(places, np.int8)[part]
    if loose.any():
        for name, place in zip(parts, places[1:], strict=True):
            if not (splits == place).any():
                raise UserError(
                    f"{loose.sum():,} samples are too few to cut {name} from them; give a larger "
                    f"--{name}-fraction or a source that has a {name} split"
                )
    return splits


def _shared(copies: Copies, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Bool [n]: whether a sample in the mask has the same image."""
    has = np.zeros(int(copies.group.max(initial=-1)) + 1, bool)
    has[copies.group[mask]] = True
    shared: NDArray[np.bool_] = has[copies.group]
    return shared


def findings(survey: Survey, layout: Layout) -> dict[SplitName, Findings]:
    """What the manifest reports for each split."""
    result: dict[SplitName, Findings] = {}
    for place, name in enumerate(SPLIT_NAMES):
        mine = layout.splits == place
        kept = mine & layout.kept
        result[name] = Findings(
            blank_rows=survey.rows[mine & ((survey.seen & SEEN_BLANK) > 0)].tolist(),
            near_blank_rows=survey.rows[mine & ((survey.seen & SEEN_NEAR_BLANK) > 0)].tolist(),
            dropped_rows=survey.rows[mine & ~layout.kept].tolist(),
            leaks=int((kept & layout.leak).sum()),
            copies=int(kept.sum()) - len(np.unique(layout.copies.group[kept])),
            conflicts=int((kept & layout.copies.conflict).sum()),
            converted=int((kept & ((survey.seen & SEEN_CONVERTED) > 0)).sum()),
        )
    return result


def identical(copies: Copies) -> Identical:
    """What the manifest reports about identical images in the whole source."""
    groups, first = np.unique(copies.group, return_index=True)
    counts, conflict = copies.counts[first], copies.conflict[first]
    return Identical(
        distinct=len(groups),
        groups=int((counts > 1).sum()),
        copies=int((counts - 1).sum()),
        conflicting_groups=int(conflict.sum()),
        conflicting_samples=int(counts[conflict].sum()),
    )


def plan_shards(layout: Layout, samples_per_shard: int) -> list[ShardPlan]:
    """The shards of a set: each split's kept samples in source order, cut into equal pieces."""
    plans = []
    for place, split in enumerate(SPLIT_NAMES):
        mine = np.flatnonzero((layout.splits == place) & layout.kept)
        for number, begin in enumerate(range(0, len(mine), samples_per_shard)):
            samples = mine[begin : begin + samples_per_shard]
            plans.append(ShardPlan(split, f"{split}-{number:06d}.tar", samples))
    return plans
