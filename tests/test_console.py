import io
import sys
from collections.abc import Iterator

import pytest
from rich.cells import cell_len

from pattlite_dist import console
from pattlite_dist.console import Pace, pace_text, print_any_name, print_rows, show_progress


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
