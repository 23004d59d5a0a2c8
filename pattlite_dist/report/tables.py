"""The numbers behind the charts, as the page keeps them: columns, each named once.

A table is a list of blocks: `common` values of all its rows, and `columns` of equal length. The
page's script makes rows of them, as Vega needs them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pattlite_dist.report.record import RunRecord
from pattlite_dist.report.series import Point, curve, speed
from pattlite_dist.report.thin import smooth, thin

Block = dict[str, Any]
_DIGITS = 5
_NOISY = ("train/loss", "train/grad_norm", "time/data")  # of one batch, or of a few
_WINDOWS = 60  # in a curve, each side of a running mean


def block(common: Mapping[str, Any], columns: Mapping[str, Sequence[Any]]) -> Block:
    """One block; numbers are rounded to what a chart can show."""
    return {
        "common": dict(common),
        "columns": {name: list(map(rounded, values)) for name, values in columns.items()},
    }


def rounded(value: Any) -> Any:
    """A number with few digits; anything else as it is."""
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


def points(
    record: RunRecord, series: str, found: Sequence[Point], noisy: bool = False
) -> list[Block]:
    """A curve, thinned; empty without points.

    Args:
        record: of the run.
        series: name of the curve.
        found: its points.
        noisy: whether to add its running mean, if it has enough points.
    """
    if not found:
        return []
    values = [point.value for point in found]
    means = smooth(values, len(values) // _WINDOWS if noisy else 0)
    kept = thin(list(zip(found, means, strict=True)), values)
    columns: dict[str, Sequence[Any]] = dict(
        zip(Point._fields, zip(*(point for point, _ in kept), strict=True), strict=True)
    )
    if noisy:
        columns["mean"] = [mean for _, mean in kept]
    common = {"run": record.name, "series": series, "alone": len(kept) == 1}
    return [block(common, columns)]


def of_metric(record: RunRecord, series: str, name: str) -> list[Block]:
    """The curve of a metric of the record."""
    found = curve(record.lines, name, record.clock, record.steps_per_epoch)
    return points(record, series, found, name in _NOISY)


def of_speed(record: RunRecord) -> list[Block]:
    """Images a second."""
    if record.batch is None:
        return []
    found = speed(record.lines, record.batch, record.begun, record.steps_per_epoch)
    return points(record, "images/s", found, noisy=True)


def of_all(records: Iterable[RunRecord], make: Callable[[RunRecord], list[Block]]) -> list[Block]:
    """The blocks of several runs."""
    return [found for record in records for found in make(record)]


def restarts(record: RunRecord) -> list[Block]:
    """Where a run went on after it had ended, and why it had."""
    again = list(enumerate(record.begun))[1:]
    if not again:
        return []
    per_epoch = record.steps_per_epoch
    columns: dict[str, list[Any]] = {
        "step": [start.step for _, start in again],
        "epoch": [start.step / per_epoch if per_epoch else None for _, start in again],
        "hour": [record.clock.at(place) for place, _ in again],
        "reason": [record.begun[place - 1].ended for place, _ in again],
        "start": [place + 1 for place, _ in again],
    }
    return [block({"run": record.name}, columns)]


def best(record: RunRecord) -> list[Block]:
    """The best validation, whose checkpoint is used."""
    line = record.best()
    if line is None:
        return []
    [point] = curve([line], "val/top1", record.clock, record.steps_per_epoch)
    columns = {name: [value] for name, value in point._asdict().items()}
    return [block({"run": record.name}, columns)]
