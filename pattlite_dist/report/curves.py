"""Charts of what a run's record holds: curves by step, epoch or hour, with its restarts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pattlite_dist.report import tables
from pattlite_dist.report.record import RunRecord
from pattlite_dist.report.tables import Block

if TYPE_CHECKING:
    import altair

# Okabe and Ito's colours are distinct with any colour vision; black would be lost on a dark page.
COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#8C8C8C", "#7570B3",
    "#A6761D", "#66A61E",
)  # fmt: skip
_HEIGHT = 230  # pixels


class Chart(NamedTuple):
    """A chart of the page.

    Attributes:
        title: above it.
        spec: of Vega-Lite.
        tables: by the names that the spec gives them.
        note: below it, in words; may be empty.
    """

    title: str
    spec: dict[str, Any]
    tables: dict[str, list[Block]]
    note: str = ""


class _Curves(NamedTuple):
    title: str
    metrics: dict[str, str]  # by the name of the curve
    form: str = ".4~f"  # of a value, as D3 writes it
    axis: str | None = None
    marks_best: bool = False


_SHARE = (".2%", "%")  # on an axis with as many decimals as its ticks need
_OF_ONE = (
    _Curves("Loss", {"train": "train/loss", "val": "val/nll"}),
    _Curves(
        "Accuracy",
        {"train top-1": "train/top1", "val top-1": "val/top1", "val macro-F1": "val/macro_f1",
         "val top-1, not averaged": "val/raw_top1"},
        *_SHARE,
        True,
    ),
    _Curves("Learning rate", {"head": "train/lr"}, ".3~g", ".1~e"),
    _Curves("Gradient norm", {"before clipping": "train/grad_norm"}, ".3~g"),
    _Curves("Waiting for data", {"seconds of a step": "time/data"}, ".3~s", "~s"),
)  # fmt: skip
_OF_SEVERAL = (
    _Curves("Val top-1", {"val top-1": "val/top1"}, *_SHARE, True),
    _Curves("Val macro-F1", {"val macro-F1": "val/macro_f1"}, *_SHARE),
    _Curves("Val loss", {"val": "val/nll"}),
    _Curves("Train loss", {"train": "train/loss"}),
    _Curves("Train top-1", {"train top-1": "train/top1"}, *_SHARE),
    _Curves("Learning rate", {"head": "train/lr"}, ".3~g", ".1~e"),
    _Curves("Gradient norm", {"before clipping": "train/grad_norm"}, ".3~g"),
    _Curves("Waiting for data", {"seconds of a step": "time/data"}, ".3~s", "~s"),
)
_GROUP = "lr/"  # before the name of a group of parameters with a learning rate of its own
_NOTES = {
    "Loss": "Train: of augmented images and smoothed labels, the mean over all ranks.",
    "Gradient norm": "Of the mean gradients over all ranks, before they are clipped.",
    "Waiting for data": "Seconds of a step (m: thousandths), the mean over all ranks.",
    "Images a second": "Between two lines of the record: without validation, with saving.",
}
_CHOSEN = "The diamond is the best on val: the checkpoint that is used."
_AVERAGED = "Val is of the averaged weights (optim.ema)."


def curve_charts(records: Sequence[RunRecord]) -> list[Chart]:
    """A chart for each kind of metric that the runs have."""
    several = len(records) > 1
    found = []
    for kind in _OF_SEVERAL if several else _OF_ONE:
        blocks = [
            part
            for record in records
            for series, metric in _metrics(kind, record, several).items()
            for part in tables.of_metric(record, series, metric)
        ]
        if blocks:
            best = tables.of_all(records, tables.best) if kind.marks_best else []
            found.append(_chart(kind, blocks, records, several, best))
    speeds = tables.of_all(records, tables.of_speed)
    if speeds:
        kind = _Curves("Images a second", {}, ",.0f", "~s")
        found.append(_chart(kind, speeds, records, several, []))
    return found


def _metrics(kind: _Curves, record: RunRecord, several: bool) -> dict[str, str]:
    """By the name of the curve; of one run, the rate of each group that has its own."""
    rates = {
        key.removeprefix(_GROUP): key
        for line in record.lines
        for key in line
        if key.startswith(_GROUP)
    }
    return rates if rates and kind.title == "Learning rate" and not several else kind.metrics


def _chart(
    kind: _Curves,
    blocks: list[Block],
    records: Sequence[RunRecord],
    several: bool,
    best: list[Block],
) -> Chart:
    import altair as alt

    name = kind.title.lower().replace(" ", "-")
    restarts = tables.of_all(records, tables.restarts)
    by = alt.param(name="by", value="step")
    hidden = alt.param(name="hidden", value=[])
    what, domain = "series", list(dict.fromkeys(part["common"]["series"] for part in blocks))
    if several:
        what, domain = "run", [record.name for record in records]
    only = not several and len(domain) == 1
    colour = alt.Color(
        f"{what}:N",
        title=None,
        scale=alt.Scale(domain=domain, range=colours(len(domain))),
        # Of several runs, the page itself has the legend.
        legend=None
        if several or only
        else alt.Legend(orient="top", symbolType="stroke", symbolOpacity=1, symbolStrokeWidth=2),
    )
    shown = [*([what] if several or not only else []), "step", "epoch", "hour"]
    tips = [*map(_tip, shown), alt.Tooltip("value:Q", title=kind.title, format=kind.form)]
    ticks = alt.Axis(tickCount=5, **({"format": kind.axis} if kind.axis else {}))
    value = alt.Y("value:Q", title=None, scale=alt.Scale(zero=False), axis=ticks)
    place = alt.X("x:Q", title=None, scale=alt.Scale(zero=True, nice=False),
                  axis=alt.Axis(tickCount=6, grid=False))  # fmt: skip
    base = _placed(name).encode(x=place, y=value, color=colour)
    hover = alt.selection_point(name="hover", on="pointerover", clear="pointerout", empty=False)
    noisy = any("mean" in part["columns"] for part in blocks)
    layers: list[alt.Chart] = [
        # Of what is noisy, the eye follows the mean; of the rest, there is none.
        base.mark_line(strokeWidth=1.8).encode(y="shown:Q"),
        *([base.mark_line(strokeWidth=1, opacity=0.3)] if noisy else []),
        base.mark_point(filled=True, size=90)
        .encode(opacity=_when(hover), tooltip=tips)
        .add_params(hover),
    ]
    own = {name: blocks}
    if restarts:
        own["restarts"] = restarts
        # Runs without this metric have restarts too, which are not of this chart.
        here = list(dict.fromkeys(part["common"]["run"] for part in blocks))
        again = (
            _placed("restarts")
            .transform_filter(alt.FieldOneOfPredicate("run", here))
            .encode(x="x:Q", tooltip=[*map(_tip, ("run", "start", "reason", *shown[-3:]))])
        )
        grey = alt.value("#8C8C8C")
        layers.append(again.mark_rule(strokeDash=[3, 3], size=1).encode(color=grey))
        layers.append(
            again.mark_point(filled=True, shape="triangle-down", size=90, opacity=0.9).encode(
                y=alt.value(5), color=grey
            )
        )
    if best:
        own["best"] = best
        chosen = _placed("best").encode(x="x:Q", y="value:Q", tooltip=["run:N", *tips[-4:]])
        layers.append(
            chosen.mark_point(shape="diamond", size=110, strokeWidth=2).encode(
                color=colour if several else alt.value(colours(2)[1])
            )
        )
    chart = alt.layer(*layers).properties(width="container", height=_HEIGHT).add_params(by, hidden)
    averaged = any(record.settings.get("optim.ema") for record in records)
    scores = any("val" in name for name in kind.metrics)
    said = [_NOTES.get(kind.title), best and _CHOSEN, averaged and scores and _AVERAGED]
    note = " ".join(text for text in said if text)
    return Chart(kind.title, spec_of(chart), own, note)


def _placed(table: str) -> "altair.Chart":
    """A chart over the rows of the runs that are shown, placed by what is chosen on the page."""
    import altair as alt

    return (
        alt.Chart(alt.NamedData(table))
        .transform_filter("indexof(hidden, datum.run) < 0")
        .transform_calculate(x="datum[by]", shown="isValid(datum.mean) ? datum.mean : datum.value")
        .transform_filter("isValid(datum.x)")
    )


def _when(hover: Any) -> dict[str, Any]:
    """Points are seen where the pointer is, and where there is no line through them."""
    test = {"or": [{"param": hover.name, "empty": False}, "datum.alone"]}
    return {"condition": {"test": test, "value": 1}, "value": 0}


def _tip(name: str) -> "altair.Tooltip":
    import altair as alt

    forms = {"step": ",d", "epoch": ".2~f", "hour": ".2~f", "start": "d"}
    if name in forms:
        return alt.Tooltip(f"{name}:Q", format=forms[name])
    return alt.Tooltip(f"{name}:N")


def colours(count: int) -> list[str]:
    """That many colours, which begin anew where there are not enough."""
    return [COLOURS[number % len(COLOURS)] for number in range(count)]


def spec_of(chart: Any) -> dict[str, Any]:
    """What Vega-Lite is given: the chart as plain data, without the sizes that Altair adds."""
    spec: dict[str, Any] = chart.to_dict(validate=False)
    spec.pop("config", None)
    return spec
