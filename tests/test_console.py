import io
import re
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from pattlite_dist import console
from pattlite_dist.console import (
    Pace,
    narrowed,
    pace_text,
    parts,
    print_any_name,
    print_rows,
    show_progress,
)


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(console.time, "monotonic", clock.monotonic)
    return clock


def test_a_pace_is_that_of_the_work_seen() -> None:
    pace = Pace()
    assert pace.rate(0, 5000) is None  # done earlier, by a run that was stopped
    assert pace.rate(2, 5200) == 100
    assert pace.rate(4, 5400) == 100


def test_a_pace_forgets_what_is_long_ago() -> None:
    pace = Pace()
    rates = [
        pace.rate(second, 10 * min(second, 100) + 90 * max(second - 100, 0))
        for second in range(200)
    ]
    assert rates[100] == pytest.approx(10)
    assert rates[199] == pytest.approx(90)


def test_a_pace_of_work_begun_anew_begins_anew() -> None:
    pace = Pace()
    pace.rate(0, 0)
    assert pace.rate(10, 1000) == 100
    assert pace.rate(11, 10) is None
    assert pace.rate(12, 20) == 10


def test_a_pace_that_stands_still_is_none() -> None:
    pace = Pace()
    pace.rate(0, 7)
    assert pace.rate(10, 7) is None


@pytest.mark.parametrize(
    ("rate", "done", "total", "text"),
    [
        (None, 5, 10, ""),
        (1234.5, 0, None, "1,234 images/s"),
        (100.0, 400, 8100, "100 images/s, 0:01:17 left"),
        (2.25, 10, 10, "2.2 images/s"),
        (2.25, 12, 10, "2.2 images/s"),
    ],
)
def test_a_pace_is_told_as_far_as_it_is_known(
    rate: float | None, done: int, total: int | None, text: str
) -> None:
    assert pace_text(rate, done, total) == text


def test_a_log_gets_a_line_every_ten_seconds(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with show_progress() as progress:
        progress("read", 0, None)
        clock.now += 9
        progress("read", 900, None)
        clock.now += 1
        progress("read", 1000, None)
        clock.now += 5
        progress("read", 1500, 4000)
        clock.now += 5
        progress("read", 2000, 4000)
        progress("write", 1, 4000)
        clock.now += 10
        progress("write", 1, 4000)
    assert capsys.readouterr().err.splitlines() == [
        "read: 1,000, 100 images/s",
        "read: 2,000 of 4,000, 100 images/s, 0:00:20 left",
        "write: 1 of 4,000",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_whose_total_may_come_late(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    with show_progress() as progress:
        for second in range(11):
            clock.now += 1
            progress("read", 100 * second, None if second < 5 else 2000)
        progress("read", 2000, 2000)
    shown = terminal.getvalue()
    assert "2000/2000" in shown
    assert "100 images/s" in shown or "200 images/s" in shown


def at_terminal(monkeypatch: pytest.MonkeyPatch, width: int = 80) -> Terminal:
    """Make standard output and error the same terminal, of so many columns."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    return terminal


def plain(terminal: Terminal) -> str:
    """What was written to a terminal, without its colours."""
    return re.sub(r"\x1b\[[\d;]*m", "", terminal.getvalue())


def test_what_is_printed_under_a_bar_stays_and_the_bar_goes(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = at_terminal(monkeypatch)
    with show_progress(latest=True) as progress:
        for epoch in ("epoch 1/2", "epoch 2/2"):
            for done in (10, 20, 40):
                clock.now += 1
                progress(epoch, done, 40)
            print(f"{epoch}: loss 0.1234")
    shown = plain(terminal)
    assert all(f"epoch {number}/2: loss 0.1234\n" in shown for number in (1, 2))
    *_, last = shown.split("loss 0.1234")
    assert "epoch 1/2" not in last
    assert shown.endswith("\x1b[2K"), "the bar is wiped away"


def test_a_bar_leaves_a_file_its_lines(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    at_terminal(monkeypatch)
    log = io.StringIO()
    monkeypatch.setattr(sys, "stdout", log)
    with show_progress(latest=True) as progress:
        progress("epoch 1/2", 1, 2)
        print("epoch 1/2: loss 0.1234")
    assert log.getvalue() == "epoch 1/2: loss 0.1234\n"


SCORES = [
    ["split", "samples", "top-1 %", "95 % interval", "macro-F1 %", "balanced %", "nll", "ece %"],
    ["val", "3,589", "92.75", "90.2 to 95.2", "92.67", "92.79", "0.2507", "7.4"],
    [],
    ["test_clean", "3,301", "93.70", "91.2 to 96.0", "93.72", "93.70", "10.2547", "19.2"],
]
COMPARED = [
    ["run", "top-1 %", "macro-F1 %", "nll", "only 1st : 2nd right", "p"],
    ["a-run-with-a-rather-long-name", "92.75 ± 0.30", "92.75 ± 0.30", "0.1234 ± 0.0123", "", ""],
    ["mean of 3 differences", "+1.75 ± 0.30", "-2.75 ± 0.30", "+0.1 ± 0.2", "123 : 43", "< 0.001"],
]


@pytest.mark.parametrize("rows", [SCORES, COMPARED])
@pytest.mark.parametrize("width", [200, 100, 80, 60, 40])
def test_no_figure_is_cut_off_however_narrow_the_terminal(
    rows: list[list[str]], width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = at_terminal(monkeypatch, width)
    print_rows(rows)
    lines = plain(terminal).splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in plain(terminal)
    for row in rows[1:]:
        assert all(any(cell in line for line in lines) for cell in row[1:])
    assert all(word in plain(terminal) for name in rows[0] for word in name.split())


def test_scores_fit_side_by_side_into_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = at_terminal(monkeypatch)
    print_rows(SCORES)
    assert len(plain(terminal).splitlines()) == 2 + 1 + 3


def test_a_table_in_a_file_is_as_wide_as_it_has_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    cells = [str(10**column) for column in range(25)]
    print_rows([cells, cells])
    assert max(map(len, capsys.readouterr().out.splitlines())) == sum(map(len, cells)) + 3 * 25 + 1


@pytest.mark.parametrize("width", [80, 12])
def test_a_cell_is_no_markup(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = at_terminal(monkeypatch, width)
    print_rows([["class", "n"], ["[b]a[/c]", "1"], ["\\[x]", "2"]])
    assert "[b]a[/c]" in plain(terminal) and "\\[x]" in plain(terminal)


WIDTHS = st.lists(st.integers(1, 70), min_size=1, max_size=12)


@given(WIDTHS, st.sets(st.integers(0, 11)), st.integers(1, 200))
def test_each_column_is_in_one_part_beside_the_first(
    widths: list[int], tied: set[int], room: int
) -> None:
    found = parts(widths, tied, room)
    assert [column for part in found for column in part[1:]] == list(range(1, len(widths)))
    for part in found:
        assert part[0] == 0
        needed = sum(widths[column] for column in part) + 2 * (len(part) - 1)
        assert needed <= room or set(part[2:]) <= tied
    assert all(part[1] not in tied for part in found[1:])


@given(WIDTHS, st.integers(1, 200), st.data())
def test_only_words_are_narrowed_and_no_more_than_needed(
    widths: list[int], room: int, data: st.DataObject
) -> None:
    words = data.draw(st.sets(st.integers(0, len(widths) - 1), min_size=1))
    found = narrowed(widths, words, room)
    for column, (before, after) in enumerate(zip(widths, found, strict=True)):
        assert after == before or (column in words and 16 <= after < before)
    if found != widths:
        assert sum(found) + 2 * (len(found) - 1) >= room


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_any_name_is_printed_and_a_tables_columns_stay_straight(
    monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding, errors="strict")
    monkeypatch.setattr(sys, "stdout", stream)
    print_any_name()
    print("\u6124\u6012 \udcff")
    print_rows([["class", "n"], ["\u6124", "1"], [], ["caf\u00e9", "23"]])
    stream.flush()
    lines = stream.buffer.getvalue().decode(encoding).splitlines()  # type: ignore[attr-defined]
    assert ("\u6124\u6012" if encoding == "utf-8" else "\\u6124\\u6012") in lines[0]
    widths = {cell_len(line) for line in lines[1:]}
    assert len(widths) == 1
