"""How `make test` distributes the suite over workers, and its final summary.

A plugin registered by `tests.conftest`. With pytest-xdist's `--dist loadgroup` a group of tests
runs on one worker, in order: all cluster tests, which mostly wait, form one group; otherwise each
file does, because its tests share fixtures. The longest groups start first.
"""

import os
import time
from collections import Counter
from collections.abc import Iterator

import pytest

CLUSTER, SECOND_CLUSTER = "cluster", "second cluster"
# Longest first, so that no worker starts one of them when the others have finished.
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
    """The group in which a test is sent to a worker."""
    marked = item.get_closest_marker("xdist_group")
    if marked is not None:
        return str(marked.args[0])
    if item.get_closest_marker("slurm") is not None:
        return CLUSTER
    return item.nodeid.partition("::")[0]


def rank(name: str) -> int:
    """A group's position in the order, which only matters for long ones."""
    return LONGEST.index(name) if name in LONGEST else len(LONGEST)


class Workers:
    """Groups and orders the tests, and reports what was skipped and how long it took."""

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
        yield  # including pytest's own last line
        if reporter is None or is_worker or session.config.option.collectonly:
            return
        for why, count in self.left_out.items():
            reporter.write_line(f"skipped: {count} tests: {why}", yellow=True, bold=True)
        if not self.left_out:
            reporter.write_line("skipped: nothing")
        minutes, seconds = divmod(round(time.monotonic() - self.begin), 60)
        workers = session.config.getoption("numprocesses", None) or 1
        reporter.write_line(
            f"took {minutes} min {seconds} s with {workers} workers on {os.cpu_count()} cores"
        )
