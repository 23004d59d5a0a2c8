"""What commands print while they work and when they finish: a progress bar, a table."""

import contextlib
import datetime
import io
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import TaskID

# Called with what is being done, samples done, and samples in total (None while unknown).
Progress = Callable[[str, int, int | None], None]
_WINDOW = 30.0  # seconds of work over which the rate is measured
_FRAME = 0.05  # seconds between updates of a bar


class Pace:
    """The rate of work, measured over the last half minute."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque()

    def rate(self, now: float, done: int) -> float | None:
        """Images per second at `now` seconds; None while it is unknown.

        The first call only sets the start, because resumed work begins with much of it done. A
        call with less done than before is a new start.
        """
        if self._marks and done < self._marks[-1][1]:
            self._marks.clear()
        if not self._marks or now - self._marks[-1][0] >= 0.5:
            self._marks.append((now, done))
        while len(self._marks) > 2 and now - self._marks[1][0] >= _WINDOW:
            self._marks.popleft()
        then, before = self._marks[0]
        return (done - before) / (now - then) if now > then and done > before else None


def pace_text(rate: float | None, done: int, total: int | None) -> str:
    """`1,234 images/s, 0:01:17 left`, or as much of it as is known."""
    if rate is None:
        return ""
    speed = f"{rate:,.0f} images/s" if rate >= 10 else f"{rate:.1f} images/s"
    if total is None or total <= done:
        return speed
    left = datetime.timedelta(seconds=round((total - done) / rate))
    return f"{speed}, {left} left"


def print_any_name() -> None:
    """From here on, print letters that the terminal or log does not have as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _escaped(text: str) -> str:
    """`text` as it will be printed, so that columns get their widths."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


@contextlib.contextmanager
def show_progress() -> Iterator[Progress]:
    """A progress function: a bar on a terminal, a line every ten seconds in a log file."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich import progress as rich_progress
    from rich.console import Console

    bar = rich_progress.Progress(
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TextColumn("{task.fields[pace]}"),
        console=Console(stderr=True),
    )
    tasks: dict[str, tuple[TaskID, Pace]] = {}
    shown = 0.0
    with bar:

        def report(what: str, done: int, total: int | None) -> None:
            nonlocal shown
            now = time.monotonic()
            if what in tasks and done != total and now - shown < _FRAME:
                return
            shown = now
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=None, pace=""), Pace()
            task, pace = tasks[what]
            text = pace_text(pace.rate(now, done), done, total)
            bar.update(task, completed=done, total=total, pace=text)

        yield report


def _lines() -> Progress:
    last = time.monotonic()
    paces: dict[str, Pace] = {}

    def report(what: str, done: int, total: int | None) -> None:
        nonlocal last
        now = time.monotonic()
        rate = paces.setdefault(what, Pace()).rate(now, done)
        if now - last < 10:
            return
        last = now
        words = [f"{done:,}" + ("" if total is None else f" of {total:,}")]
        words.append(pace_text(rate, done, total))
        print(f"{what}: {', '.join(filter(None, words))}", file=sys.stderr, flush=True)

    return report


def print_rows(rows: list[list[str]]) -> None:
    """Print a table whose first row is the header; an empty row is a horizontal line."""
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for number, name in enumerate(rows[0]):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    for row in rows[1:]:
        if row:
            table.add_row(*map(_escaped, row))
        else:
            table.add_section()
    # In a log file, rich would wrap tables at 80 columns.
    width = None if sys.stdout.isatty() else 160
    Console(width=width).print(table)
