"""Charts of the scores of an evaluation: intervals, confusion, classes."""

from collections.abc import Iterator, Sequence
from typing import Any

from pattlite_dist.report.curves import Chart, colours, spec_of
from pattlite_dist.report.record import RunRecord
from pattlite_dist.report.tables import block

_ROW = 40  # pixels of a class
METRICS = {"top1": "top-1", "macro_f1": "macro-F1", "balanced_accuracy": "balanced accuracy"}
SHARE = ".1%"


def score_charts(records: Sequence[RunRecord]) -> list[Chart]:
    """The charts of the runs that were evaluated; empty if none was."""
    scored = [record for record in records if record.evaluation]
    if not scored:
        return []
    several = len(records) > 1
    found = [_intervals(scored, several), _confusion(scored), _classes(scored)]
    if several:
        found.insert(1, _recalls(scored))
    return found


def splits(records: Sequence[RunRecord]) -> Iterator[tuple[dict[str, str], Any, RunRecord]]:
    """Each split of each run: what all its rows have in common, and its scores."""
    for record in records:
        for part, scores in record.evaluation.splits.items() if record.evaluation else ():
            yield {"run": record.name, "part": part}, scores, record


def labels(records: Sequence[RunRecord]) -> list[str]:
    """The classes of all runs, in order."""
    found = [name for record in records if record.evaluation for name in record.evaluation.labels]
    return list(dict.fromkeys(found))


def parts(records: Sequence[RunRecord]) -> list[str]:
    """The splits of all runs, in order."""
    return list(dict.fromkeys(common["part"] for common, _, _ in splits(records)))


def chosen(table: str, records: Sequence[RunRecord]) -> Any:
    """A chart over the rows of the run and the split that are chosen on the page."""
    import altair as alt

    part = alt.param(name="part", value=first_part(records))
    run = alt.param(name="run", value=records[0].name)
    kept = alt.Chart(alt.NamedData(table)).transform_filter(
        "datum.part == part && datum.run == run"
    )
    return kept, (part, run)


def first_part(records: Sequence[RunRecord]) -> str:
    """The split that is shown first: the one that counts."""
    known = parts(records)
    return next(name for name in ("test_clean", "test", *known) if name in known)


def _intervals(records: Sequence[RunRecord], several: bool) -> Chart:
    import altair as alt

    blocks = []
    for common, scores, _ in splits(records):
        names = ["top1"] if several else list(METRICS)
        ends = [getattr(scores, f"{name}_interval") for name in names]
        columns = {
            "metric": [METRICS[name] for name in names],
            "value": [getattr(scores, name) for name in names],
            "low": [low for low, _ in ends],
            "high": [high for _, high in ends],
            "samples": [scores.samples] * len(names),
        }
        blocks.append(block(common, columns))
    known = parts(records)
    row = "run" if several else "metric"
    base = alt.Chart(alt.NamedData("intervals")).encode(
        y=alt.Y(f"{row}:N", title=None, sort=None),
        yOffset=alt.YOffset("part:N", sort=known, scale=alt.Scale(paddingOuter=0.3)),
        color=alt.Color(
            "part:N", title=None, sort=known,
            scale=alt.Scale(domain=known, range=colours(len(known))),
            legend=alt.Legend(orient="top", symbolType="circle"),
        ),
        tooltip=[
            alt.Tooltip("run:N"), alt.Tooltip("part:N", title="split"), "metric:N",
            alt.Tooltip("value:Q", format=".2%"), alt.Tooltip("low:Q", format=".2%"),
            alt.Tooltip("high:Q", format=".2%"), alt.Tooltip("samples:Q", format=",d"),
        ],
    )  # fmt: skip
    form = alt.Axis(format=".0%", tickCount=5)
    rule = base.mark_rule(strokeWidth=2).encode(
        x=alt.X("low:Q", title=None, axis=form, scale=alt.Scale(zero=False, nice=True)),
        x2="high:Q",
    )
    dot = base.mark_circle(size=80, opacity=1).encode(x="value:Q")
    rows = len(records) if several else len(METRICS)
    chart = alt.layer(rule, dot).properties(
        width="container", height=max(rows * (14 * len(known) + 8), 60)
    )
    title = "Top-1 by run" if several else "Scores by split"
    return Chart(title, spec_of(chart), {"intervals": blocks}, "Bars are 95 % intervals.")


def _recalls(records: Sequence[RunRecord]) -> Chart:
    import altair as alt

    blocks = [
        block(common, {"label": list(scores.recall), "recall": list(scores.recall.values())})
        for common, scores, _ in splits(records)
    ]
    part = alt.param(name="part", value=first_part(records))
    base = (
        alt.Chart(alt.NamedData("recalls"))
        .transform_filter("datum.part == part")
        .encode(
            x=alt.X("label:N", title=None, sort=labels(records), axis=alt.Axis(labelAngle=-40)),
            y=alt.Y("run:N", title=None, sort=None),
            tooltip=["run:N", "label:N", alt.Tooltip("recall:Q", format=SHARE)],
        )
    )
    chart = alt.layer(
        base.mark_rect(color=colours(1)[0]).encode(opacity=_heat("recall")),
        base.mark_text(fontSize=11).encode(text=alt.Text("recall:Q", format=".0%")),
    ).properties(width="container", height=26 * len(records))
    return Chart("Recall by class", spec_of(chart.add_params(part)), {"recalls": blocks})


def _heat(name: str) -> Any:
    import altair as alt

    # The colour stays light enough for the text on it, on a light page and on a dark one.
    return alt.Opacity(f"{name}:Q", scale=alt.Scale(domain=[0, 1], range=[0.04, 0.7]), legend=None)


def _confusion(records: Sequence[RunRecord]) -> Chart:
    import altair as alt

    blocks = []
    for common, scores, record in splits(records):
        assert record.evaluation is not None
        names = record.evaluation.labels
        cells = [(true, guess) for true in range(len(names)) for guess in range(len(names))]
        sums = [max(sum(row), 1) for row in scores.confusion]
        columns = {
            "true": [names[true] for true, _ in cells],
            "predicted": [names[guess] for _, guess in cells],
            "count": [scores.confusion[true][guess] for true, guess in cells],
            "rate": [scores.confusion[true][guess] / sums[true] for true, guess in cells],
        }
        blocks.append(block(common, columns))
    known = labels(records)
    kept, params = chosen("confusion", records)
    base = kept.encode(
        x=alt.X("predicted:N", sort=known, axis=alt.Axis(labelAngle=-40)),
        y=alt.Y("true:N", sort=known),
        tooltip=[
            "true:N", "predicted:N", alt.Tooltip("count:Q", format=",d"),
            alt.Tooltip("rate:Q", format=SHARE, title="share of the true class"),
        ],
    )  # fmt: skip
    faint = alt.condition("datum.count > 0", alt.value(1), alt.value(0.45))
    chart = alt.layer(
        base.mark_rect(color=colours(1)[0]).encode(opacity=_heat("rate")),
        base.mark_text(fontSize=12, dy=-5)
        .encode(text=alt.Text("rate:Q", format=".0%"))
        .transform_filter("datum.count > 0"),
        base.mark_text(fontSize=9, dy=9).encode(
            text=alt.Text("count:Q", format=",d"), opacity=faint
        ),
    ).properties(width="container", height=_ROW * len(known))
    note = "Above: the share of the true class; below: the number of samples."
    return Chart("Confusion", spec_of(chart.add_params(*params)), {"confusion": blocks}, note)


def _classes(records: Sequence[RunRecord]) -> Chart:
    import altair as alt

    kinds = {"recall": "recall", "precision": "precision", "average_precision": "average precision"}
    blocks = []
    for common, scores, _ in splits(records):
        for kind, shown in kinds.items():
            values = getattr(scores, kind)
            columns = {"label": list(values), "value": list(values.values())}
            blocks.append(block({**common, "kind": shown}, columns))
    order, known = list(kinds.values()), labels(records)
    kept, params = chosen("classes", records)
    chart = (
        kept.mark_bar(cornerRadiusEnd=2)
        .encode(
            x=alt.X("value:Q", title=None, scale=alt.Scale(domain=[0, 1]),
                    axis=alt.Axis(format=".0%", tickCount=5)),
            y=alt.Y("label:N", title=None, sort=known),
            yOffset=alt.YOffset("kind:N", sort=order),
            color=alt.Color("kind:N", title=None, sort=order,
                            scale=alt.Scale(domain=order, range=colours(3)),
                            legend=alt.Legend(orient="top")),
            tooltip=["label:N", "kind:N", alt.Tooltip("value:Q", format=SHARE)],
        )
        .properties(width="container", height=_ROW * len(known))
        .add_params(*params)
    )  # fmt: skip
    return Chart("Classes", spec_of(chart), {"classes": blocks})
