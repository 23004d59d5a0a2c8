"""Compare evaluated runs: check what they must have in common, then summarise them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pattlite_dist.config import Config
from pattlite_dist.errors import UserError
from pattlite_dist.evaluation.paired import Spread, in_words, mcnemar, spread
from pattlite_dist.evaluation.predictions import Predictions, load_predictions
from pattlite_dist.evaluation.schema import OTHERS, Evaluation, Part, View, read_evaluation
from pattlite_dist.tracking.folder import CONFIG_NAME, load_config
from pattlite_dist.train.names import chosen, listed

METRICS = ("top1", "macro_f1", "balanced_accuracy", "nll", "ece")
# The settings of these two sections that make it a different configuration.
_OF_THE_DATA = ("image_size", "image_sizes", "window", "tail", "targets")
_OF_THE_TRAINER = ("epochs", "global_batch", "precision")
_HEADS = ("top-1 %", "macro-F1 %", "balanced %", "nll", "ece %")


@dataclass(frozen=True)
class Scored:
    """A run's evaluation, and the predictions of the part that is compared."""

    run: Path
    config: Config
    evaluation: Evaluation
    predictions: Predictions
    part: Part
    view: View

    def value(self, metric: str) -> float:
        """A score of the part and view."""
        return float(getattr(self.evaluation.of_views()[self.view][self.part], metric))

    def right(self) -> NDArray[np.bool_]:
        """Whether each prediction is right, bool [n]."""
        right: NDArray[np.bool_] = self.predictions.guesses(self.view) == self.predictions.labels
        return right


def read_scored(run: Path, part: Part, view: View) -> Scored:
    """Read what `pattlite evaluate` wrote into a run's folder, or into one for other shards in it.

    Raises:
        UserError: it is missing or damaged, or lacks this part or view.
    """
    config, evaluation = load_config(owner(run)), read_evaluation(run)
    if view not in evaluation.views:
        raise UserError(
            f"{run} was not scored with the view {view}; run "
            f"`pattlite evaluate {run} --views {view}`"
        )
    if part not in evaluation.splits:
        known = ", ".join(evaluation.splits)
        raise UserError(f"{run} has scores of {known}, but not of {part}; choose one with --split")
    file = evaluation.predictions
    splits = load_predictions(run / file.name, file.sha256, evaluation.views)
    predictions = splits["test"].clean() if part == "test_clean" else splits[part]
    return Scored(run, config, evaluation, predictions, part, view)


def owner(folder: Path) -> Path:
    """The run whose results a folder holds: itself, or that of `RUN/evaluation/NAME`."""
    above = folder.resolve().parent
    inside = above.name == OTHERS and not (folder / CONFIG_NAME).exists()
    return above.parent if inside else folder


def stale(scored: Sequence[Scored]) -> list[str]:
    """A line for each run whose scores are not those of its best checkpoint on val."""
    lines = []
    for one in scored:
        run = owner(one.run)
        best = chosen(listed(run / "checkpoints"))
        if best is not None and best.name != one.evaluation.checkpoint:
            lines.append(
                f"{one.run}: these are scores of {one.evaluation.checkpoint}, the best on val is "
                f"now {best.name}; `pattlite evaluate {run}` scores it"
            )
    return lines


def recipe(config: Config) -> dict[str, Any]:
    """A configuration without its name, its seed, and where and on what it runs."""
    tree = config.model_dump(mode="json")
    for section, key in (("data", _OF_THE_DATA), ("trainer", _OF_THE_TRAINER)):
        tree[section] = {name: value for name, value in tree[section].items() if name in key}
    sections = {name: part for name, part in tree.items() if name not in ("tracking", "wandb")}
    return {
        f"{name}.{key}": value
        for name, part in sections.items()
        if isinstance(part, dict)
        for key, value in part.items()
    }


def check_group(group: Sequence[Scored]) -> None:
    """Check that runs have the same configuration and different seeds.

    Raises:
        UserError: they do not; names the first difference, or two of one seed.
    """
    first = recipe(group[0].config)
    for other in group[1:]:
        second = recipe(other.config)
        for key, value in first.items():
            if value != second[key]:
                raise UserError(
                    f"{group[0].run} and {other.run} have different configurations "
                    f"({key}: {value} and {second[key]}); put the runs to compare with after "
                    "--against"
                )
    seeds: dict[int, Path] = {}
    for scored in group:
        seed = scored.config.seed
        if seed in seeds:
            raise UserError(
                f"{seeds[seed]} and {scored.run} both have seed {seed}, so that they say nothing "
                "about other seeds; name one of them, or put one after --against"
            )
        seeds[seed] = scored.run


def check_different(runs: Sequence[Scored]) -> None:
    """Check that no run is named twice.

    Raises:
        UserError: one is.
    """
    seen: set[Path] = set()
    for scored in runs:
        if scored.run.resolve() in seen:
            raise UserError(f"{scored.run} is named twice; name each run once")
        seen.add(scored.run.resolve())


def check_same_samples(runs: Sequence[Scored]) -> None:
    """Check that all runs were scored on the same samples.

    Raises:
        UserError: they were not.
    """
    first = runs[0]
    for other in runs[1:]:
        same = first.evaluation.manifest == other.evaluation.manifest and all(
            np.array_equal(getattr(first.predictions, name), getattr(other.predictions, name))
            for name in ("ids", "labels")
        )
        if not same:
            run = owner(other.run)
            raise UserError(
                f"{first.run} and {other.run} were scored on different shards; run "
                f"`pattlite evaluate {run} --shards` with those of the first, and compare "
                f"the folder that it writes, {run}/{OTHERS}/NAME"
            )


def pairs(first: Sequence[Scored], second: Sequence[Scored]) -> list[tuple[Scored, Scored]]:
    """Pair the runs of both sides: by seed if both have the same seeds, else in order.

    Raises:
        UserError: the sides have different numbers of runs.
    """
    if len(first) != len(second):
        raise UserError(
            f"{len(first)} runs cannot be paired with {len(second)}; "
            "name the same number after --against"
        )
    by_seed = {scored.config.seed: scored for scored in second}
    seeds = [scored.config.seed for scored in first]
    if len(by_seed) == len(second) and set(seeds) == by_seed.keys():
        return [(scored, by_seed[scored.config.seed]) for scored in first]
    return list(zip(first, second, strict=True))


def table(first: Sequence[Scored], second: Sequence[Scored] = ()) -> list[list[str]]:
    """One table: each run, the mean of each side and, if there are two, the paired differences.

    A difference is the first's score minus the second's; its p is McNemar's, for top-1.

    Raises:
        UserError: the runs cannot be compared.
    """
    check_different([*first, *second])
    check_group(first)
    if second:
        check_group(second)
    check_same_samples([*first, *second])
    paired = pairs(first, second) if second else []
    names = _names([scored.run for scored in (*first, *second)])
    rows = [["run", *_HEADS, *(["only 1st : 2nd right", "p"] if second else [])]]
    for group in (first, second):
        for scored in group:
            values = [Spread(scored.value(metric), None) for metric in METRICS]
            rows.append([names[scored.run], *_cells(values)])
        if len(group) > 1:
            values = [spread([scored.value(metric) for scored in group]) for metric in METRICS]
            rows.append([f"mean of {len(group)}", *_cells(values)])
    differences = [[a.value(metric) - b.value(metric) for metric in METRICS] for a, b in paired]
    for (a, b), found in zip(paired, differences, strict=True):
        cells = _cells([Spread(value, None) for value in found], "+")
        test = mcnemar(a.right(), b.right())
        counts = f"{test.only_first} : {test.only_second}"
        rows.append([f"{names[a.run]} - {names[b.run]}", *cells, counts, in_words(test.p)])
    if len(paired) > 1:
        values = [spread(column) for column in zip(*differences, strict=True)]
        rows.append([f"mean of {len(paired)} differences", *_cells(values, "+")])
    width = len(rows[0])
    return [row + [""] * (width - len(row)) for row in rows]


def _names(runs: Sequence[Path]) -> dict[Path, str]:
    names = [run.resolve().name for run in runs]
    unlike = len(set(names)) == len(names)
    return dict(zip(runs, names if unlike else map(str, runs), strict=True))


def _cells(values: Sequence[Spread], sign: str = "") -> list[str]:
    cells = []
    for metric, value in zip(METRICS, values, strict=True):
        scale, places = (1, 4) if metric == "nll" else (100, 2)
        text = f"{scale * value.mean:{sign}.{places}f}"
        if value.deviation is not None:
            text += f" ± {scale * value.deviation:.{places}f}"
        cells.append(text)
    return cells
