"""A summary of a set from its manifest: a table, and a line for each thing worth knowing."""

from collections.abc import Callable

from pattlite_dist.console import print_rows
from pattlite_dist.shards.manifest import SPLIT_NAMES, Findings, Manifest, Options, SplitName

_UNKNOWN = "-"
_UNBALANCED = 1.5  # ratio of the largest to the smallest class from which it is reported


def set_table(manifest: Manifest) -> list[list[str]]:
    """Rows of a table: header, classes, findings by split, then what the source had besides.

    An empty row stands for a horizontal line. Classes are rows, so that any number of them fits.
    """
    splits = [manifest.class_counts(split) for split in SPLIT_NAMES]
    columns = [*splits, [sum(counts) for counts in zip(*splits, strict=True)]]
    totals = [sum(column) for column in columns]
    rows = [["class"], *([label] for label in manifest.labels), [], ["samples"]]
    for name, column, total in zip([*SPLIT_NAMES, "all"], columns, totals, strict=True):
        rows[0] += [name, "%"]
        for row, count in zip(rows[1:], column, strict=False):
            row += [f"{count:,}", f"{100 * count / max(total, 1):.1f}"]
        rows[-1] += [f"{total:,}", ""]
    shards = [len(manifest.shards.get(split, [])) for split in SPLIT_NAMES]
    rows += [_counts("shards", shards), []]
    rows += [
        _counts(name, [count(_found(manifest, split)) for split in SPLIT_NAMES])
        if manifest.version > 1 or name in _ALWAYS
        else [name, *[_UNKNOWN, ""] * (len(SPLIT_NAMES) + 1)]
        for name, count in _FOUND.items()
    ]
    skipped = [
        [reason, *[""] * 2 * len(SPLIT_NAMES), f"{count:,}", ""]
        for reason, count in manifest.source.left_out.items()
    ]
    return [*rows, [], *skipped] if skipped else rows


_FOUND: dict[str, Callable[[Findings], int]] = {
    "blank": lambda findings: findings.in_the_set(findings.blank_rows),
    "near blank": lambda findings: findings.in_the_set(findings.near_blank_rows),
    "left out": lambda findings: len(findings.dropped_rows),
    "leaks": lambda findings: findings.leaks,
    "copies": lambda findings: findings.copies,
    "conflicts": lambda findings: findings.conflicts,
}
_ALWAYS = ("blank", "left out", "leaks")  # the first version did not look for the others


def _found(manifest: Manifest, split: SplitName) -> Findings:
    return manifest.findings.get(split, Findings())


def _counts(name: str, counts: list[int]) -> list[str]:
    return [name, *(cell for count in [*counts, sum(counts)] for cell in (f"{count:,}", ""))]


def remarks(manifest: Manifest) -> list[str]:
    """One line for each thing worth knowing before training on the set."""
    source, image = manifest.source, manifest.image
    colour = "grey" if image.channels == 1 else "colour"
    lines = [
        f"{image.width}x{image.height} {colour}, from {source.rows:,} samples of {source.name} "
        f"({source.kind}, sha256 {source.sha256[:12]}), by {manifest.created_by}; "
        f"fingerprint {manifest.fingerprint()[:12]}"
    ]
    if source.left_out:
        reasons = ", ".join(f"{count:,} ({reason})" for reason, count in source.left_out.items())
        lines.append(f"skipped in the source: {reasons}")
    for split in SPLIT_NAMES:
        lines += _about_split(manifest, split)
    if manifest.identical is not None and manifest.identical.groups:
        same = manifest.identical
        lines.append(
            f"identical images in the source: {same.groups + same.copies:,} samples share "
            f"{same.groups:,} images; labels differ for {same.conflicting_groups:,} of them "
            f"({same.conflicting_samples:,} samples)"
        )
    if manifest.votes:
        lines.append(f"each sample's JSON contains votes: {', '.join(manifest.votes)}")
    told = other_options(manifest.options)
    if told:
        lines.append(f"created with {' '.join(told)}")
    return lines


def _about_split(manifest: Manifest, split: SplitName) -> list[str]:
    findings, lines = _found(manifest, split), []
    dropped = findings.dropped_rows
    if dropped:
        blank, near_blank = (
            len(rows) - findings.in_the_set(rows)
            for rows in (findings.blank_rows, findings.near_blank_rows)
        )
        reasons = {
            "blank": blank,
            "near blank": near_blank,
            "with a copy in val or test": len(dropped) - blank - near_blank,
        }
        told = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items() if count)
        lines.append(f"left out of {split}: {told}")
    if findings.converted:
        lines.append(
            f"{split}: {findings.converted:,} images were converted from another size or mode"
        )
    counts = dict(zip(manifest.labels, manifest.class_counts(split), strict=True))
    missing = _lacking(manifest, split)
    lines += missing
    if split == "train" and not missing:
        most, least = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
        ratio = counts[most] / counts[least]
        if ratio >= _UNBALANCED:
            lines.append(f"train has {ratio:.1f} times as many samples of {most} as of {least}")
    return lines


def lacking(manifest: Manifest) -> list[str]:
    """One line for each split without samples, or without those of some classes."""
    return [line for split in SPLIT_NAMES for line in _lacking(manifest, split)]


def _lacking(manifest: Manifest, split: SplitName) -> list[str]:
    counts = dict(zip(manifest.labels, manifest.class_counts(split), strict=True))
    missing = [label for label, count in counts.items() if not count]
    if len(missing) == len(counts):
        return [f"{split} has no samples"]
    return [f"{split} has no samples of {', '.join(missing)}"] if missing else []


def other_options(options: Options) -> list[str]:
    """The user's choices that differ from the defaults, as options of `shards create`."""
    said = options.model_dump()
    words = {**said.pop("reading")}
    words.update({name: value for name, value in said.items() if value != _DEFAULTS[name]})
    return [f"--{name.replace('_', '-')} {value}" for name, value in words.items()]


_DEFAULTS = Options().model_dump()


def print_manifest(manifest: Manifest) -> None:
    """Print the contents of a shard set, by class and split."""
    print_rows(set_table(manifest))
