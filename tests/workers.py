"""How `make test` spreads the suite over workers, and what it says at its end.

A plugin that `tests.conftest` registers. With pytest-xdist's `--dist loadgroup` a group of tests
goes to one worker, in order: all of the cluster's, which mostly wait; and else a file's, for they
share fixtures. The longest groups begin first.
"""

import os
import time
from collections import Counter
from collections.abc import Iterator

import pytest

CLUSTER, SECOND_CLUSTER = "cluster", "second cluster"
# The longest first, so that no worker begins one of them when the others have ended.
LONGEST = (
    CLUSTER,
    SECOND_CLUSTER,
    "tests/test_readme.py",
    "tests/train/test_kill.py",
    "tests/train/test_run.py",
    "tests/test_types.py",
    "tests/test_torchrun.py",
    "tests/train/test_saving.py",
    "tests/shards/test_create_real.py",
    "tests/train/test_stages.py",
    "tests/data/test_loader.py",
)


def group(item: pytest.Item) -> str:
    """What a test goes to a worker with."""
    marked = item.get_closest_marker("xdist_group")
    if marked is not None:
        return str(marked.args[0])
    if item.get_closest_marker("slurm") is not None:
        return CLUSTER
    return item.nodeid.partition("::")[0]


def rank(name: str) -> int:
    """A group's place in the order: of those that are not long, the order does not matter."""
    return LONGEST.index(name) if name in LONGEST else len(LONGEST)


class Workers:
    """Groups and orders the tests, and says what was left out and how long it took."""

    def __init__(self) -> None:
        self.begin = time.monotonic()
        self.left_out: Counter[str] = Counter()

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        if config.getoption("dist", "no") != "loadgroup":
            return
        items.sort(key=lambda item: rank(group(item)))  # stable
        for item in items:
            if item.get_closest_marker("xdist_group") is None:
                item.add_marker(pytest.mark.xdist_group(group(item)))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and isinstance(report.longrepr, tuple):
            self.left_out[str(report.longrepr[2]).removeprefix("Skipped: ")] += 1

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Iterator[None]:
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        is_worker = hasattr(session.config, "workerinput")
        if os.environ.get("CI") and not is_worker and reporter and reporter.stats.get("skipped"):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        yield  # pytest's own last line among it
        if reporter is None or is_worker or session.config.option.collectonly:
            return
        for why, count in self.left_out.items():
            reporter.write_line(f"left out: {count} tests: {why}", yellow=True, bold=True)
        if not self.left_out:
            reporter.write_line("left out: nothing")
        minutes, seconds = divmod(round(time.monotonic() - self.begin), 60)
        workers = session.config.getoption("numprocesses", None) or 1
        reporter.write_line(
            f"took {minutes} min {seconds} s with {workers} workers on {os.cpu_count()} cores"
        )
