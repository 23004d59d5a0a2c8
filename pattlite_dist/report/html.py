"""Pieces of HTML, in which every text is escaped."""

import html
import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple


class Cell(NamedTuple):
    """A cell of a table.

    Attributes:
        text: that is shown.
        key: to sort by, where that is not the text.
        mark: a class of the page's style; may be empty.
    """

    text: str
    key: float | None = None
    mark: str = ""


def escape(text: object) -> str:
    """A text that means itself, also inside of quotes."""
    return html.escape(str(text), quote=True)


def tag(name: str, inner: str, **attributes: object) -> str:
    """An element; `inner` is HTML, attributes are texts, and an underscore is for a hyphen."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
    )
    return f"<{name}{given}>{inner}</{name}>"


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[Cell | str]],
    caption: str,
    sorts: bool = False,
) -> str:
    """A table that scrolls by itself where it is too wide; of `sorts`, a click sorts it."""
    rows = [list(row) for row in rows]
    names = ""
    for place, name in enumerate(head):
        attributes = {"scope": "col", **({"aria_sort": "none"} if sorts else {})}
        # A heading stands over its column as the column's cells do.
        if marks := next(filter(None, (_marks(row[place]) for row in rows)), ""):
            attributes["class_"] = marks
        inner = tag("button", escape(name), type="button") if sorts else escape(name)
        names += tag("th", inner, **attributes)
    body = "".join(tag("tr", "".join(_cell(cell, i == 0) for i, cell in enumerate(row)))
                   for row in rows)  # fmt: skip
    inner = f"<caption>{escape(caption)}</caption><thead><tr>{names}</tr></thead>"
    inner += f"<tbody>{body}</tbody>"
    found = tag("table", inner, **({"class_": "sorts"} if sorts else {}))
    return tag("div", found, class_="scrolls", tabindex=0, role="region", aria_label=caption)


def _cell(cell: Cell | str, first: bool) -> str:
    text, key, _ = cell if isinstance(cell, Cell) else Cell(cell)
    attributes: dict[str, object] = {} if key is None else {"data_key": f"{key:.10g}"}
    if marks := _marks(cell):
        attributes["class_"] = marks
    if first:
        return tag("th", escape(text), scope="row", **attributes)
    return tag("td", escape(text), **attributes)


def _marks(cell: Cell | str) -> str:
    if not isinstance(cell, Cell):
        return ""
    return " ".join(filter(None, ["number" if cell.key is not None else "", cell.mark]))


def details(summary: str, inner: str, opened: bool = False) -> str:
    """What can be opened and closed."""
    start = "<details open>" if opened else "<details>"
    return f"{start}<summary>{escape(summary)}</summary>{inner}</details>"


def data(name: str, content: Any) -> str:
    """Plain data for the page's script, which no text in it can end."""
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    safe = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return f'<script type="application/json" id="{escape(name)}">{safe}</script>'
