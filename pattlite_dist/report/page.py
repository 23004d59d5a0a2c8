"""The page: its sections, and one file that holds all they need."""

import base64
import functools
import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from pattlite_dist import __version__
from pattlite_dist.errors import UserError
from pattlite_dist.report import sections
from pattlite_dist.report.curves import Chart, colours, curve_charts
from pattlite_dist.report.html import data, details, escape, tag
from pattlite_dist.report.predicted import prediction_charts
from pattlite_dist.report.record import RunRecord
from pattlite_dist.report.scored import first_part, parts, score_charts
from pattlite_dist.report.several import left_out, setting_charts
from pattlite_dist.report.times import time_charts

INSTALL = "pip install 'pattlite_dist[report]'"


def require() -> None:
    """Check that what draws the charts is installed.

    Raises:
        UserError: it is not.
    """
    try:
        import altair  # noqa: F401
        import vl_convert  # noqa: F401
    except ImportError as error:
        raise UserError(f"a report requires Altair and vl-convert ({error}): {INSTALL}") from None


@functools.cache
def script() -> str:
    """The page's script, with Vega in it: takes four seconds to put together."""
    import vl_convert

    own = resources.files(__package__).joinpath("page.js").read_text(encoding="utf-8")
    bundle: str = vl_convert.javascript_bundle(own)
    return bundle.replace("</script", "<\\/script")


def build(records: Sequence[RunRecord], pictures: str = "") -> str:
    """The page of one run or several.

    Args:
        records: of the runs.
        pictures: HTML of the mistakes; may be empty.
    """
    require()
    several = len(records) > 1
    title = f"{len(records)} runs" if several else records[0].name
    curves, settings = curve_charts(records), setting_charts(records) if several else []
    scores = [*score_charts(records), *prediction_charts(records)]
    found: list[tuple[str, str]] = []
    if several:
        found.append(("Runs", sections.runs(records)))
    if curves:
        numbers = "" if several else details("Numbers by epoch", sections.epochs(records[0]))
        found.append(("Curves", _by() + _legend(records) + _figures(curves) + numbers))
    times = time_charts(records)
    if times:
        found.append(("Time", _figures(times)))
    if settings:
        more = left_out(records)
        note = f"Without a chart, as there are many: {', '.join(more)}." if more else ""
        text = tag("p", "The best val top-1 of each run. " + escape(note), class_="note")
        found.append(("Settings against val", text + _figures(settings)))
    scored = [record for record in records if record.evaluation]
    if scores:
        tables = sections.scores(records)
        tables += tag("ul", "".join(map(sections.checkpoint, scored)), class_="note plain")
        tables = details("Scores of all splits", tables) if several else tables
        wide, rest = (scores[:2], scores[2:]) if several else (scores[:1], scores[1:])
        inner = tables + _figures(wide) + _choice(scored) + _figures(rest)
        found.append(("Evaluation", inner))
    audits = "".join(sections.audit(record, several) for record in records)
    if audits:
        found.append(("Audit", audits))
    if pictures:
        found.append(("Mistakes", pictures))
    begun = [record for record in records if record.begun]
    if begun:
        found.append(("Starts", sections.all_starts(begun)))
    if any(record.settings for record in records):
        found.append(("Configuration", sections.configuration(records)))
    notes = "".join(
        tag("li", escape(f"{record.name}: {note}" if several else note))
        for record in records
        for note in record.notes
    )
    head = tag("h1", escape(title))
    head += "" if several else sections.facts(records[0])
    head += tag("ul", notes, class_="warning") if notes else ""
    return _document(title, head, found, [*curves, *times, *settings, *scores])


def _document(title: str, head: str, found: list[tuple[str, str]], charts: list[Chart]) -> str:
    links = "".join(tag("li", tag("a", name, href=f"#{_anchor(name)}")) for name, _ in found)
    body = "".join(
        tag("section", tag("h2", name) + inner, id=_anchor(name)) for name, inner in found
    )
    tables = {name: blocks for chart in charts for name, blocks in chart.tables.items()}
    specs = {_chart_id(chart): {**chart.spec, "description": chart.title} for chart in charts}
    own = script() if charts else ""
    digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
    # Nothing is loaded and nothing is sent; this one script runs, and no other.
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    style = resources.files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f'<link rel="icon" href="data:,"><title>{escape(title)} - pattlite report</title>'
        f"<style>{style}</style></head><body>"
        '<a class="skip" href="#content">Skip to the content</a>'
        f"<header>{head}</header><nav aria-label='Sections'><ul>{links}</ul></nav>"
        f'<main id="content">{body}</main>'
        f"<footer>{escape(sections.written(f'pattlite_dist {__version__}'))}</footer>"
        + data("data", {"tables": tables, "charts": specs})
        + (f'<script type="module">{own}</script>' if charts else "")
        + "</body></html>\n"
    )


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def _chart_id(chart: Chart) -> str:
    return f"chart-{_anchor(chart.title)}"


def _figures(charts: Sequence[Chart]) -> str:
    inner = "".join(
        tag(
            "figure",
            tag("figcaption", escape(chart.title))
            + tag("div", "", id=_chart_id(chart), class_="chart")
            + (tag("p", escape(chart.note), class_="note") if chart.note else ""),
        )
        for chart in charts
    )
    return tag("div", inner, class_="figures")


def _radios(signal: str, legend: str, values: Sequence[tuple[str, str]], first: str) -> str:
    inner = "".join(
        f'<label><input type="radio" name="{escape(signal)}" value="{escape(value)}"'
        f"{' checked' if value == first else ''}> {escape(shown)}</label>"
        for value, shown in values
    )
    return tag("fieldset", f"<legend>{escape(legend)}</legend>{inner}", class_="choice")


def _by() -> str:
    return _radios("by", "by", [("step", "step"), ("epoch", "epoch"), ("hour", "hour")], "step")


def _legend(records: Sequence[RunRecord]) -> str:
    """Of several runs, a box for each, which shows or hides it, and a field that finds some."""
    if len(records) == 1:
        return ""
    inner = "".join(
        f'<label><input type="checkbox" name="shown" value="{escape(record.name)}" checked>'
        f'<svg class="swatch" viewBox="0 0 10 10" aria-hidden="true">'
        f'<rect width="10" height="10" rx="2" fill="{colour}"/></svg>{escape(record.name)}</label>'
        for record, colour in zip(records, colours(len(records)), strict=True)
    )
    find = '<label>only with <input type="search" name="find" placeholder="part of a name"></label>'
    return tag("fieldset", f"<legend>runs</legend>{inner}{find}", class_="choice runs")


def _choice(records: Sequence[RunRecord]) -> str:
    names = [(part, part.replace("_", " ")) for part in parts(records)]
    found = _radios("part", "split", names, first_part(records))
    if len(records) > 1:
        found += _radios("run", "run", [(r.name, r.name) for r in records], records[0].name)
    return found


def write_report(records: Sequence[RunRecord], out: Path, pictures: str = "") -> int:
    """Write the page, whole or not at all; returns its bytes."""
    from pattlite_dist.files import write_text

    text = build(records, pictures)
    write_text(out, text)
    return len(text.encode())
