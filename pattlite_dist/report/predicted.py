"""Charts of an evaluation's predictions: reliability, precision and recall."""

from collections.abc import Iterator, Sequence
from typing import Any

from pattlite_dist.report.curves import Chart, colours, spec_of
from pattlite_dist.report.record import RunRecord
from pattlite_dist.report.scored import SHARE, chosen, labels, splits
from pattlite_dist.report.tables import block
from pattlite_dist.report.thin import evenly

_FEW = 10  # samples; a share of fewer says little
_CURVE = {True: 50, False: 150}  # points of a precision-recall curve, of several runs and of one


def prediction_charts(records: Sequence[RunRecord]) -> list[Chart]:
    """The charts of the runs whose predictions are there; empty if none's are."""
    found = [record for record in records if record.predictions]
    return [_reliability(found), _precision_recall(found, len(records) > 1)] if found else []


def _predicted(records: Sequence[RunRecord]) -> Iterator[tuple[dict[str, str], Any, RunRecord]]:
    """The predictions of each split, from one view."""
    for common, _, record in splits(records):
        part = common["part"]
        found = record.predictions.get(part.removesuffix("_clean"))
        if found is not None:
            yield common, found.clean() if part == "test_clean" else found, record


def _reliability(records: Sequence[RunRecord]) -> Chart:
    import altair as alt

    from pattlite_dist.evaluation.scores import calibration
    from pattlite_dist.train.temperature import BINS

    blocks = []
    for common, found, _ in _predicted(records):
        counts, confidence, accuracy = calibration(found.probabilities["one"], found.labels)
        there = [place for place, count in enumerate(counts.tolist()) if count]
        columns: dict[str, list[Any]] = {
            "low": [place / BINS for place in there],
            "high": [(place + 1) / BINS for place in there],
            "samples": [int(counts[place]) for place in there],
            "confidence": [float(confidence[place]) for place in there],
            "accuracy": [float(accuracy[place]) for place in there],
        }
        blocks.append(block(common, columns))
    kept, params = chosen("reliability", records)
    share = alt.Axis(format=".0%", tickCount=5)
    base = kept.encode(
        tooltip=[
            alt.Tooltip("samples:Q", format=",d"),
            alt.Tooltip("confidence:Q", format=SHARE, title="mean confidence"),
            alt.Tooltip("accuracy:Q", format=SHARE),
        ]
    )
    whole = alt.Scale(domain=[0, 1])
    bars = base.mark_rect(color=colours(5)[4]).encode(
        x=alt.X("low:Q", title="confidence", scale=whole, axis=share), x2="high:Q",
        y=alt.Y("accuracy:Q", title="accuracy", scale=whole, axis=share), y2=alt.Y2Datum(0),
        opacity=alt.condition(f"datum.samples < {_FEW}", alt.value(0.3), alt.value(0.7)),
    )  # fmt: skip
    gaps = base.mark_rule(color=colours(2)[1], strokeWidth=2).encode(
        x="confidence:Q", y="accuracy:Q", y2="confidence:Q"
    )
    dots = base.mark_circle(color=colours(2)[1], size=50, opacity=1).encode(
        x="confidence:Q", y="confidence:Q"
    )
    line = (
        alt.Chart(alt.InlineData(values=[{"c": 0}, {"c": 1}]))
        .mark_line(color="#8C8C8C", strokeDash=[4, 4], strokeWidth=1)
        .encode(x="c:Q", y="c:Q")
    )
    chart = alt.layer(bars, line, gaps, dots).properties(width="container", height=280)
    note = (
        "Bars: accuracy of the samples of this confidence, faint of fewer than "
        f"{_FEW}; dots: their mean confidence, which a calibrated network has on the bar's top."
    )
    spec = spec_of(chart.add_params(*params))
    return Chart("Reliability", spec, {"reliability": blocks}, note)


def _precision_recall(records: Sequence[RunRecord], several: bool) -> Chart:
    import altair as alt

    from pattlite_dist.evaluation.scores import precision_recall

    blocks = []
    for common, found, record in _predicted(records):
        assert record.evaluation is not None
        for number, label in enumerate(record.evaluation.labels):
            if not (found.labels == number).any():  # there is no recall
                continue
            precision, recall = precision_recall(found.probabilities["one"], found.labels, number)
            kept = evenly(len(recall), _CURVE[several])
            columns = {
                "recall": [float(recall[place]) for place in kept],
                "precision": [float(precision[place]) for place in kept],
            }
            blocks.append(block({**common, "label": label}, columns))
    known = labels(records)
    kept_rows, params = chosen("precision-recall", records)
    hover = alt.selection_point(name="hover", on="pointerover", clear="pointerout", empty=False)
    share = alt.Axis(format=".0%", tickCount=5)
    whole = alt.Scale(domain=[0, 1])
    base = kept_rows.encode(
        x=alt.X("recall:Q", scale=whole, axis=share),
        y=alt.Y("precision:Q", scale=whole, axis=share),
        color=alt.Color(
            "label:N", title=None, sort=known,
            scale=alt.Scale(domain=known, range=colours(len(known))),
            legend=alt.Legend(orient="top", columns=4, symbolType="stroke", symbolStrokeWidth=2),
        ),
        order="recall:Q",
    )  # fmt: skip
    tips = ["label:N", alt.Tooltip("recall:Q", format=SHARE),
            alt.Tooltip("precision:Q", format=SHARE)]  # fmt: skip
    chart = alt.layer(
        base.mark_line(interpolate="step-before", strokeWidth=1.6),
        base.mark_point(filled=True, size=70)
        .encode(opacity=alt.condition(hover, alt.value(1), alt.value(0)), tooltip=tips)
        .add_params(hover),
    ).properties(width="container", height=280)
    spec = spec_of(chart.add_params(*params))
    return Chart("Precision and recall", spec, {"precision-recall": blocks})
