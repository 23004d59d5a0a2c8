"""What commands print while they work and when they finish: a progress bar, a table."""

import contextlib
import datetime
import io
import itertools
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.progress import TaskID
    from rich.table import Table

# Called with what is being done, samples done, and samples in total (None while unknown).
Progress = Callable[[str, int, int | None], None]
_WINDOW = 30.0  # seconds of work over which the rate is measured
_FRAME = 0.05  # seconds between updates of a bar
_GAP = 2  # characters between the columns of a table without lines
_LEAST = 16  # characters to which a column of words is narrowed before the table is split


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
def show_progress(
    latest: bool = False, below: Callable[[], str] = lambda: ""
) -> Iterator[Progress]:
    """A progress function: a bar on a terminal, a line every ten seconds in a log file.

    Args:
        latest: show a bar only for what was reported last, and none at the end.
        below: says what to write below the bar, if anything; cut off where a line ends.
    """
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich import progress as rich_progress
    from rich.console import Console, RenderableType
    from rich.text import Text

    class Bar(rich_progress.Progress):
        def get_renderables(self) -> Iterator[RenderableType]:
            yield from super().get_renderables()
            if text := below():
                yield Text(text, no_wrap=True, overflow="ellipsis")

    bar = Bar(
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TextColumn("{task.fields[pace]}"),
        console=Console(stderr=True),
        transient=latest,
        auto_refresh=not latest,  # by a thread, which a loader process would inherit half
        # What is printed meanwhile appears above the bar, but belongs in a file if it goes to one.
        redirect_stdout=sys.stdout.isatty(),
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
                while latest and tasks:
                    bar.remove_task(tasks.popitem()[1][0])
                tasks[what] = bar.add_task(what, total=total, completed=done, pace=""), Pace()
            task, pace = tasks[what]
            text = pace_text(pace.rate(now, done), done, total)
            bar.update(task, completed=done, total=total, pace=text, refresh=latest)

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


def print_rows(rows: Sequence[Sequence[str]], words: Collection[int] = (0,)) -> None:
    """Print a table whose first row is the header; an empty row is a horizontal line.

    Nothing is cut off: where the terminal is too narrow, the table loses its lines, columns of
    words are folded, and what still does not fit follows as another table with the same first
    column.

    Args:
        rows: of plain text.
        words: columns that may be folded.
    """
    from rich.cells import cell_len
    from rich.console import Console

    rows = [[_escaped(cell) for cell in row] for row in rows]
    # A file has no width.
    room = Console().width if sys.stdout.isatty() else None
    widths = [max(map(cell_len, column)) for column in _columns(rows)]
    whole = sum(widths) + 3 * len(widths) + 1
    if room is None or whole <= room:
        Console(width=whole).print(_table(rows, widths, lines=True))
        return
    rows = [[_folded(name, cells) for name, *cells in _columns(rows)], *rows[1:]]
    widths = [
        max(cell_len(line) for cell in column for line in cell.split("\n"))
        for column in _columns(rows)
    ]
    widths = narrowed(widths, words, room)
    tied = [column for column, name in enumerate(rows[0]) if name == "%"]
    for number, part in enumerate(parts(widths, tied, room)):
        if number:
            print()
        cells = [[row[column] for column in part] if row else [] for row in rows]
        found = [widths[column] for column in part]
        width = max(sum(found) + _GAP * (len(part) - 1), 1)
        Console(width=width).print(_table(cells, found, lines=False))


def narrowed(widths: Sequence[int], words: Collection[int], room: int) -> list[int]:
    """The widths of columns, of which those of words are narrowed until all fit, as far as they do.

    Args:
        widths: characters.
        words: columns that may be folded.
        room: characters of a line.
    """
    found = list(widths)
    while sum(found) + _GAP * (len(found) - 1) > room:
        widest = max(words, key=found.__getitem__)
        if found[widest] <= _LEAST:
            break
        found[widest] -= 1
    return found


def parts(widths: Sequence[int], tied: Collection[int], room: int) -> list[list[int]]:
    """The columns of each table, all with the first column, in which no line is too long.

    What does not fit beside the first column is with it in a table that is too wide.

    Args:
        widths: characters.
        tied: columns that stay with the one before, as a percentage does with what it is of.
        room: characters of a line.
    """
    found = [[0]]
    starts = [column for column in range(1, len(widths)) if column == 1 or column not in tied]
    for begin, end in itertools.pairwise([*starts, len(widths)]):
        part = [*found[-1], *range(begin, end)]
        wide = sum(widths[column] for column in part) + _GAP * (len(part) - 1) > room
        if wide and len(found[-1]) > 1:
            found.append([0, *range(begin, end)])
        else:
            found[-1] = part
    return found


def _columns(rows: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    return list(zip(*filter(None, rows), strict=True))


def _folded(name: str, cells: Sequence[str]) -> str:
    """A heading, folded between its words to be no wider than its column."""
    from rich.cells import cell_len

    longest = max(map(cell_len, [*cells, *name.split()]), default=1)
    return "\n".join(wrap(name, longest, break_long_words=False, break_on_hyphens=False))


def _table(rows: Sequence[Sequence[str]], widths: Sequence[int], lines: bool) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.HEAVY_HEAD)
    if not lines:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for number, (name, width) in enumerate(zip(rows[0], widths, strict=True)):
        justify: Literal["left", "right"] = "right" if number else "left"
        table.add_column(Text(name), justify=justify, width=width, overflow="fold")
    for row in rows[1:]:
        if row:
            table.add_row(*map(Text, row))
        else:
            table.add_section()
    return table
