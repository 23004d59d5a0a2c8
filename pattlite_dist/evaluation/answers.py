"""An audit in words: its rows and its main result."""

from pattlite_dist.evaluation.findings import Audit, Marked


def verdict(found: Audit) -> str:
    """The main result, in one sentence."""
    if found.independence.holds:
        return "a prediction is a function of its image alone"
    return (
        "a prediction depends on the other images of its batch: this network has no single "
        "accuracy, but one for each way of making batches"
    )


def table(found: Audit) -> list[list[str]]:
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


def _pair(what: str, pair: Marked | None) -> list[list[str]]:
    if pair is None:
        return [[f"top-1 of samples with {what}", "", "not marked"]]
    return [
        [f"top-1 of samples with {what}", f"{pair.marked.samples:,}", _percent(pair.marked.top1)],
        ["  of the others", f"{pair.others.samples:,}", _percent(pair.others.top1)],
    ]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"
