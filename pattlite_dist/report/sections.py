"""The tables and texts of a report."""

import datetime
import time
from collections.abc import Sequence

from pattlite_dist.report.html import Cell, details, escape, table, tag
from pattlite_dist.report.record import RunRecord, defaults
from pattlite_dist.report.scored import METRICS
from pattlite_dist.report.series import number, speed
from pattlite_dist.report.several import chosen, differing, in_words

_IN_EPOCHS = ("train/", "val/", "lr/")  # metrics; of the time there is a chart
MOST_COLUMNS = 12  # of settings, in the table of runs


def percent(share: float | None) -> Cell:
    """A share with two decimals."""
    return Cell("", None) if share is None else Cell(f"{100 * share:.2f} %", share)


def moment(seconds: float) -> str:
    """A time, as UTC."""
    when = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    return f"{when:%Y-%m-%d %H:%M} UTC"


def hours(count: float) -> str:
    """`3 h 05 min`, or `17 min`, or `40 s`."""
    minutes, seconds = divmod(round(count * 3600), 60)
    if minutes >= 60:
        return f"{minutes // 60:,} h {minutes % 60:02d} min"
    return f"{minutes} min" if minutes else f"{seconds} s"


def state(record: RunRecord) -> str:
    """The state of a run in words."""
    row = record.row
    if row.state == "unknown":
        return f"not ended; {row.reason}" if row.reason else "not started"
    return f"{row.state}: {row.reason}" if row.reason else row.state


def images_per_second(record: RunRecord) -> float | None:
    """The median over the run; None where the record does not say."""
    if record.batch is None:
        return None
    rates = speed(record.lines, record.batch, record.begun, record.steps_per_epoch)
    return sorted(point.value for point in rates)[len(rates) // 2] if rates else None


def facts(record: RunRecord) -> str:
    """The figures of one run, each with what it is."""
    row, best = record.row, record.best()
    now, _, why = state(record).partition(": ")
    found: list[tuple[str, str, str]] = [("state", now, why)]
    if row.epoch is not None:
        of = "" if row.epochs is None else f" of {row.epochs:,}"
        found.append(("epoch", f"{row.epoch:,}{of}", f"step {row.step:,}"))
    if best is not None:
        epoch = best.get("epoch")
        after = f"after epoch {epoch + 1:,}" if isinstance(epoch, int) else ""
        found.append(("best val top-1", percent(best["val/top1"]).text, after))
    for part, scores in record.evaluation.splits.items() if record.evaluation else ():
        if part != "val":
            low, high = scores.top1_interval
            name = f"{part.replace('_', ' ')} top-1"
            found.append(
                (name, percent(scores.top1).text, f"{100 * low:.1f} to {100 * high:.1f} %")
            )
    if record.begun:
        times = len(record.begun)
        more = f"{times} start{'s' if times > 1 else ''}"
        found.append(("time of training", hours(record.clock.total), more))
    if row.time_left:
        found.append(("time left", hours(row.time_left / 3600), "at this pace"))
    rate = images_per_second(record)
    if rate is not None:
        found.append(("images a second", f"{rate:,.0f}", "median"))
    if row.straggler is not None:
        found.append(("straggler", row.straggler, "share of a step that others wait for it"))
    return tag(
        "dl",
        "".join(
            tag("div", tag("dt", escape(name)) + tag("dd", escape(value) + (
                tag("small", escape(more)) if more else "")))
            for name, value, more in found
        ),
        class_="facts",
    )  # fmt: skip


def runs(records: Sequence[RunRecord]) -> str:
    """A row for each run, with the settings that differ."""
    keys = chosen(records)[:MOST_COLUMNS]
    parts = list(
        dict.fromkeys(part for r in records if r.evaluation for part in r.evaluation.splits)
    )
    shown = [part for part in parts if part != "val"]  # whose best is there already
    tops = [f"{part.replace('_', ' ')} top-1" for part in shown]
    f1 = [f"{part.replace('_', ' ')} macro-F1" for part in parts[-1:]]
    head = ["run", "state", "epoch", "best val", *tops, *f1, "hours", "images/s", "starts", *keys]
    rows = []
    for record in records:
        row, best = record.row, record.best()
        splits = record.evaluation.splits if record.evaluation else {}
        rate = images_per_second(record)
        last = splits.get(parts[-1]) if parts else None
        epoch = "" if row.epoch is None else f"{row.epoch}/{row.epochs or '?'}"
        cells = [
            Cell(record.name),
            Cell(state(record), None, "wide"),
            Cell(epoch, row.epoch),
            percent(best["val/top1"] if best else None),
            *(percent(splits[p].top1 if p in splits else None) for p in shown),
            *([percent(last.macro_f1 if last else None)] if parts else []),
            Cell(f"{record.clock.total:.2f}", record.clock.total),
            Cell("" if rate is None else f"{rate:,.0f}", rate),
            Cell(str(len(record.begun)), len(record.begun)),
        ]
        for key in keys:
            value = record.settings.get(key)
            cells.append(Cell(in_words(value) if record.settings else "", number(value)))
        rows.append(cells)
    return table(
        head,
        rows,
        "Runs, and the settings in which they differ; a click on a heading sorts",
        sorts=True,
    )


def starts(record: RunRecord) -> str:
    """A row for each start."""
    rows = []
    for place, start in enumerate(record.begun):
        known = start.facts
        where = str(known.get("host") or "") + (f", job {known['job']}" if known.get("job") else "")
        versions = known.get("versions")
        software = versions if isinstance(versions, dict) else {}
        ranks = known.get("ranks")
        rows.append([
            Cell(str(place + 1), place + 1),
            Cell(moment(start.begin)),
            Cell(where),
            Cell(f"{ranks or '?'} on {known.get('device', '?')}"),
            Cell(str(known.get("precision", ""))),
            Cell(f"{start.step:,}", start.step),
            Cell(hours((start.end - start.begin) / 3600), start.end - start.begin),
            Cell(start.ended or "not ended", None, "wide"),
            Cell(", ".join(f"{name} {version}" for name, version in software.items()), None,
                 "wide"),
        ])  # fmt: skip
    head = ["start", "begun", "where", "ranks", "precision", "at step", "took", "ended", "with"]
    return table(head, rows, f"Starts of {record.name}")


def all_starts(records: Sequence[RunRecord]) -> str:
    """The starts of every run; of many, each can be opened."""
    if len(records) <= 2:
        return "".join(map(starts, records))
    return "".join(
        details(f"{record.name}: {len(record.begun)}, now {state(record)}", starts(record))
        for record in records
    )


def epochs(record: RunRecord) -> str:
    """A row for each epoch: what the curves show, to be read and copied."""
    found: dict[int, dict[str, float]] = {}
    for line in record.lines:
        if isinstance(line.get("epoch"), int):
            row = found.setdefault(line["epoch"], {})
            for key, value in line.items():
                if (known := number(value)) is not None and key.startswith(_IN_EPOCHS):
                    row[key] = known
    keys = sorted(
        {key for row in found.values() for key in row}, key=lambda key: (key[:3] != "val", key)
    )
    rows = [
        [Cell(f"{epoch + 1}", epoch + 1), *(_metric(key, row.get(key)) for key in keys)]
        for epoch, row in sorted(found.items())
    ]
    return table(["epoch", *keys], rows, f"Epochs of {record.name}; the last value of each")


def _metric(key: str, value: float | None) -> Cell:
    if value is None:
        return Cell("")
    return percent(value) if key.endswith(("top1", "f1")) else Cell(f"{value:.4g}", value)


def scores(records: Sequence[RunRecord]) -> str:
    """A row for each split of each run."""
    rows = []
    for record in records:
        found = record.evaluation
        for part, s in found.splits.items() if found else ():
            calibrated = found.calibration.ece.get(part) if found and found.calibration else None
            rows.append([
                *([Cell(record.name)] if len(records) > 1 else []),
                Cell(part.replace("_", " ")),
                Cell(f"{s.samples:,}", s.samples),
                *(
                    cell
                    for name in METRICS
                    for cell in _with_interval(getattr(s, name), getattr(s, f"{name}_interval"))
                ),
                Cell(f"{s.nll:.4f}", s.nll),
                percent(s.ece),
                percent(calibrated),
            ])  # fmt: skip
    head = [*(["run"] if len(records) > 1 else []), "split", "samples",
            *(name for shown in METRICS.values() for name in (shown, "95 %")),
            "NLL", "ECE", "ECE calibrated"]  # fmt: skip
    return table(head, rows, "Scores, one view of each image", sorts=len(records) > 1)


def _with_interval(value: float, ends: tuple[float, float]) -> list[Cell]:
    return [percent(value), Cell(f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f}")]


def checkpoint(record: RunRecord) -> str:
    """Which checkpoint the scores are of."""
    found = record.evaluation
    if found is None:
        return ""
    stale = ""
    if record.row.test_of is not None:
        stale = ", which is no longer the best on val: evaluate the run again"
    text = f"{record.name}: scores of {found.checkpoint}{stale}"
    return tag("li", escape(text))


def audit(record: RunRecord, several: bool) -> str:
    """The questions of an audit and their answers, folded for several runs; empty without one."""
    if record.audit is None:
        return ""
    from pattlite_dist.evaluation.answers import table as answers
    from pattlite_dist.evaluation.answers import verdict

    head, *rows = answers(record.audit)
    cells = [
        [Cell(row[0]), *(Cell(text, None, "right") for text in row[1:])] for row in rows if row
    ]
    found = record.audit
    said = verdict(found)
    note = f"{record.name}: {found.checkpoint} on {found.split}: {said}."
    inner = table(head, cells, f"Audit of {record.name}")
    return tag("p", escape(note)) + (details("Questions and answers", inner) if several else inner)


def configuration(records: Sequence[RunRecord]) -> str:
    """All settings of one run, those that were chosen first; of several, those that differ."""
    usual = defaults()
    if len(records) > 1:
        keys = differing(records)
        rows: list[list[Cell | str]] = [
            [key, *(Cell(in_words(r.settings.get(key)) if r.settings else "?") for r in records)]
            for key in keys
        ]
        names = [record.name for record in records]
        if not keys:
            known = all(record.settings for record in records)
            return tag("p", "The configurations are the same.") if known else ""
        return table(["setting", *names], rows, "Settings that differ")
    settings = records[0].settings
    chosen = [key for key, value in settings.items() if value != usual.get(key)]
    own = [[key, in_words(settings[key]), in_words(usual.get(key))] for key in chosen]
    rest = [[key, in_words(value)] for key, value in settings.items() if key not in chosen]
    return table(["setting", "value", "default"], own, "Settings that are not the defaults") + (
        details("Settings at their defaults", table(["setting", "value"], rest, "Defaults"))
    )


def written(created_by: str) -> str:
    """When and by what the page was written."""
    return f"Written {moment(time.time())} by {created_by}."
