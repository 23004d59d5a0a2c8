"""Charts of where the time of training went: by part of a step, by run or by rank."""

from collections.abc import Sequence

from pattlite_dist.report.curves import Chart, colours, spec_of
from pattlite_dist.report.record import RunRecord
from pattlite_dist.report.scored import SHARE
from pattlite_dist.report.tables import Block, block
from pattlite_dist.tracking.parts import PARTS, straggler, totals, totals_by_rank

_ROW = 30  # pixels of a bar
_MOST = 64  # ranks


def time_charts(records: Sequence[RunRecord]) -> list[Chart]:
    """The share of the time in each part: of one run by rank; empty where no record says."""
    several = len(records) > 1
    if several:
        bars = [(record.name, totals(record.lines)) for record in records]
    else:
        ranks = totals_by_rank(records[0].lines)[:_MOST]
        bars = [(f"rank {number}", found) for number, found in enumerate(ranks)]
        bars = bars or [("all", totals(records[0].lines))]
    bars = [(name, found) for name, found in bars if sum(found.values())]
    if not bars:
        return []
    blocks = [block({"bar": name}, _columns(found)) for name, found in bars]
    title = "Time by run" if several else "Time by rank" if len(bars) > 1 else "Time"
    return [Chart(title, _spec(blocks, len(bars)), {"times": blocks}, _note(records))]


def _columns(found: dict[str, float]) -> dict[str, list[object]]:
    whole = sum(found.values())
    parts = [part for part in PARTS if found.get(part)]
    return {
        "part": [PARTS[part] for part in parts],
        "order": [list(PARTS).index(part) for part in parts],
        "share": [found[part] / whole for part in parts],
        "minutes": [found[part] / 60 for part in parts],
    }


def _spec(blocks: list[Block], bars: int) -> dict[str, object]:
    import altair as alt

    known = [text for text in PARTS.values() if any(text in b["columns"]["part"] for b in blocks)]
    chart = (
        alt.Chart(alt.NamedData("times"))
        .mark_bar()
        .encode(
            y=alt.Y("bar:N", title=None, sort=None),
            x=alt.X("share:Q", title=None, stack="zero", scale=alt.Scale(domain=[0, 1]),
                    axis=alt.Axis(format=".0%", tickCount=5)),
            order="order:Q",
            color=alt.Color(
                "part:N", title=None, sort=known,
                scale=alt.Scale(domain=known, range=colours(len(known))),
                legend=alt.Legend(orient="top", columns=2),
            ),
            tooltip=["bar:N", "part:N", alt.Tooltip("share:Q", format=SHARE),
                     alt.Tooltip("minutes:Q", format=",.1f")],
        )
        .properties(width="container", height=max(_ROW * bars, 60))
    )  # fmt: skip
    return spec_of(chart)


def _note(records: Sequence[RunRecord]) -> str:
    """The rank that the others wait for, of each run that has one."""
    found = [(record.name, straggler(record.lines)) for record in records]
    said = [
        f"{f'{name}: t' if len(records) > 1 else 'T'}he others wait for rank {slow.rank}, "
        f"{100 * slow.cost:.0f} % of a step."
        for name, slow in found
        if slow is not None
    ]
    said.append("Reduction: averaging gradients, and waiting for slower ranks.")
    on_gpu = any(
        start.facts.get("device") not in (None, "CPU") for record in records
        for start in record.begun
    )  # fmt: skip
    if on_gpu:
        said.append(
            "On a GPU, the parts of one step in each interval are measured; waiting for data is "
            "the host's, which the GPU may not have noticed."
        )
    return " ".join(said)
