"""What tells several runs apart: the settings that differ, and what they did to val."""

import json
from collections.abc import Sequence
from typing import Any

from pattlite_dist.config import Config
from pattlite_dist.evaluation.compare import recipe
from pattlite_dist.logins import without_secrets
from pattlite_dist.report.curves import Chart, colours, spec_of
from pattlite_dist.report.record import RunRecord
from pattlite_dist.report.series import number
from pattlite_dist.report.tables import block

_NAMES = ("name", "runs")  # of every run another one
_MOST = 12  # charts of settings
_WIDE = 20  # times the smallest value is the largest, where a scale becomes logarithmic


def differing(records: Sequence[RunRecord]) -> list[str]:
    """The settings that are not the same in all runs; one that a run does not have counts."""
    known = [record.settings for record in records if record.settings]
    keys = dict.fromkeys(key for settings in known for key in settings if key not in _NAMES)
    return [key for key in keys if len({in_words(s.get(key)) for s in known}) > 1]


def chosen(records: Sequence[RunRecord]) -> list[str]:
    """The differing settings that matter: of a sweep, those that it varied."""
    keys = differing(records)
    swept = [record.swept for record in records]
    if swept and all(swept):
        varied = {key for values in swept for key in values}
        return [key for key in keys if key in varied]
    matter = {*recipe(Config()), "seed", "data.shards"}
    return [key for key in keys if key in matter]


def in_words(value: Any) -> str:
    """A value of the configuration on one line, without what would let others in."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return without_secrets(text)


def setting_charts(records: Sequence[RunRecord]) -> list[Chart]:
    """A chart for each setting that differs: its values against the best val of each run.

    None if as many settings differ as there are runs: what each of them did cannot be seen then.
    """
    keys = chosen(records)
    scored = [record for record in records if record.best() is not None]
    if len(scored) <= len(keys):
        return []
    return [_setting(key, scored, records) for key in keys[:_MOST]]


def left_out(records: Sequence[RunRecord]) -> list[str]:
    """The settings that matter, but have no chart."""
    return chosen(records)[_MOST:]


def _setting(key: str, scored: Sequence[RunRecord], records: Sequence[RunRecord]) -> Chart:
    import altair as alt

    numbers = [number(record.settings.get(key)) for record in scored]
    values = [value for value in numbers if value is not None]
    numeric = len(values) == len(scored) and len(set(values)) > 1
    shown = [in_words(record.settings.get(key)) for record in scored]
    found = block(
        {},
        {
            "run": [record.name for record in scored],
            "setting": numbers if numeric else shown,
            "val": [line["val/top1"] for record in scored if (line := record.best())],
        },
    )
    x: Any = alt.X("setting:N", title=None, sort=None, axis=alt.Axis(labelAngle=0))
    if numeric:
        scale = alt.Scale(zero=False, padding=16)
        if min(values) > 0 and max(values) >= _WIDE * min(values):
            scale = alt.Scale(type="log", padding=16, nice=False)
        x = alt.X("setting:Q", title=None, scale=scale, axis=alt.Axis(tickCount=5, grid=False))
    names = [record.name for record in records]
    table = f"setting {key}"
    chart = (
        alt.Chart(alt.NamedData(table))
        .transform_filter("indexof(hidden, datum.run) < 0")
        .mark_circle(size=110, opacity=0.9)
        .encode(
            x=x,
            y=alt.Y("val:Q", title=None, scale=alt.Scale(zero=False, padding=12),
                    axis=alt.Axis(format="%", tickCount=5)),
            color=alt.Color("run:N", legend=None,
                            scale=alt.Scale(domain=names, range=colours(len(names)))),
            tooltip=["run:N", alt.Tooltip(f"setting:{'Q' if numeric else 'N'}", title=key),
                     alt.Tooltip("val:Q", title="best val top-1", format=".2%")],
        )
        .properties(width="container", height=170)
        .add_params(alt.param(name="hidden", value=[]))
    )  # fmt: skip
    return Chart(key, spec_of(chart), {table: [found]})
