"""`pattlite audit`: what an accuracy depends on besides the images and the weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pattlite_dist.commands.options import MODELS
from pattlite_dist.console import print_rows, show_progress
from pattlite_dist.runtime.imports import quick_imports

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from pattlite_dist.evaluation.findings import Audit, Marked


def add_options(parser: "ArgumentParser") -> None:
    """Options of `audit`."""
    from jsonargparse.typing import PositiveInt

    from pattlite_dist.location import Location

    parser.add_argument("target", type=Path, help=MODELS)
    parser.add_argument(
        "--shards",
        type=Location,
        default=None,
        help="use instead of the run's own; the audit of others is in RUN/evaluation/NAME",
    )
    parser.add_argument(
        "--split", choices=("val", "test"), default=None, help="to audit; default: test, if any"
    )
    parser.add_argument(
        "--batch", type=PositiveInt, default=32, help="samples per batch (reference code: 32)"
    )
    parser.add_argument("--accelerator", choices=("auto", "cpu", "gpu"), default="auto")


def work(options: Any) -> int:
    """Audit a run; returns 1 if its predictions depend on their batch."""
    with quick_imports():
        from pattlite_dist.evaluation.audit import audit

    with show_progress() as progress:
        path, found = audit(
            options.target,
            options.shards,
            options.split,
            options.batch,
            options.accelerator,
            progress,
        )
    print(f"{found.checkpoint} on {found.split}")
    print_rows(table(found))
    print(verdict(found))
    print(path)
    return 0 if found.independence.holds else 1


def verdict(found: "Audit") -> str:
    """The main result, in one sentence."""
    if found.independence.holds:
        return "a prediction is a function of its image alone"
    return (
        "a prediction depends on the other images of its batch: this network has no single "
        "accuracy, but one for each way of making batches"
    )


def table(found: "Audit") -> list[list[str]]:
    """An audit as rows: the question, the number of samples, the answer."""
    probes, total = f"{found.independence.samples:,}", f"{found.samples:,}"
    asked, by = found.independence, f"batches of {found.batch}"
    rows = [
        ["question", "samples", "answer"],
        ["change of a probability from that of the image alone: in a batch", probes,
         f"{asked.together:.1e}"],
        ["  in the same batch in another order", probes, f"{asked.reordered:.1e}"],
        ["  with other companions", probes, f"{asked.companions:.1e}"],
        [],
        ["top-1: one by one", total, _percent(found.top1["one_by_one"])],
        [f"  in shuffled {by}", total, _percent(found.top1["shuffled"])],
        [f"  in {by} in class order", total, _percent(found.top1["class_order"])],
        [],
    ]  # fmt: skip
    for split, flaws in found.flaws.items():
        for what, count in (
            ("with an identical image in train", None if split == "train" else flaws.leaks),
            ("without any contrast", flaws.blank),
        ):
            if count is not None:
                rows.append([f"{split}: samples {what}", f"{flaws.samples:,}", f"{count:,}"])
    rows += [[], *_pair("an identical image in train", found.leaks)]
    rows += _pair("no contrast", found.blank)
    if found.selection is not None:
        scored = {item.name: item for item in found.selection.checkpoints}
        chosen, best = scored[found.selection.chosen], scored[found.selection.best]
        rows += [
            [],
            [f"top-1 of epoch {chosen.epoch + 1}, the best on val", total, _percent(chosen.top1)],
            [f"  of epoch {best.epoch + 1}, the best on {found.split} of {len(scored)} checkpoints",
             total, _percent(best.top1)],
            ["  gain of choosing on it", "", _percent(found.selection.gain)],
        ]  # fmt: skip
    return rows


def _pair(what: str, pair: "Marked | None") -> list[list[str]]:
    if pair is None:
        return [[f"top-1 of samples with {what}", "", "not marked"]]
    return [
        [f"top-1 of samples with {what}", f"{pair.marked.samples:,}", _percent(pair.marked.top1)],
        ["  of the others", f"{pair.others.samples:,}", _percent(pair.others.top1)],
    ]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"
