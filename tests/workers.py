"""How `make test` distributes the suite over workers, and its final summary.

A plugin registered by `tests.conftest`. With pytest-xdist, a group of tests runs on one worker, in
order: the tests of a file, which share fixtures, or all files that use a test cluster. The longest
groups start first.

The groups are made from the tests' ids, in a scheduler of our own. xdist's `--dist loadgroup` puts
its groups into a private attribute, which pytest 9 ignores.
"""

import functools
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
CLUSTER, SECOND_CLUSTER = "cluster", "second cluster"
# What keeps a cluster busy as long as all the others together, if there are two clusters.
APART = "tests/slurm/test_recovery.py"
# Longest first, so that no worker starts one of them when the others have finished.
LONGEST = (
    CLUSTER,
    SECOND_CLUSTER,
    "tests/test_torchrun.py",
    "tests/test_readme.py",
    "tests/train/test_saving.py",
    "tests/train/test_kill.py",
    "tests/train/test_run.py",
    "tests/shards/test_create_real.py",
    "tests/test_pods.py",
    "tests/test_nodes.py",
    "tests/gpu/test_gpu.py",
    "tests/test_types.py",
    "tests/train/test_stages.py",
    "tests/data/test_loader.py",
    "tests/train/test_reduction.py",
    "tests/tracking/test_wandb_run.py",
    "tests/tracking/test_wandb_sync.py",
    "tests/shards/test_create_killed.py",
    "tests/evaluation/test_evaluate.py",
    "tests/export/test_export.py",
    "tests/test_cli.py",
    "tests/model/test_cli_model.py",
)


def group(nodeid: str) -> str:
    """The group in which a test is sent to a worker."""
    file = nodeid.partition("::")[0]
    if not uses_cluster(file):
        return file
    return SECOND_CLUSTER if file == APART and has_second_cluster() else CLUSTER


@functools.cache
def uses_cluster(file: str) -> bool:
    """Whether some test of a file is marked `slurm`."""
    return "mark.slurm" in (ROOT / file).read_text(encoding="utf-8")


def cluster_conf(number: int) -> Path:
    """Where `CLUSTER=number cluster.sh start` puts its slurm.conf."""
    name = "pattlite-test" if number == 1 else f"pattlite-test-{number}"
    return Path("/var/lib", name, "slurm.conf")


@functools.cache
def has_second_cluster() -> bool:
    """Whether there are two clusters."""
    return cluster_conf(2).exists()


def rank(name: str) -> int:
    """A group's position in the order, which only matters for long ones."""
    return LONGEST.index(name) if name in LONGEST else len(LONGEST)


class Workers:
    """Groups and orders the tests, and reports what was skipped and how long it took."""

    def __init__(self) -> None:
        self.begin = time.monotonic()
        self.left_out: Counter[str] = Counter()

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        from xdist.scheduler import LoadScopeScheduling

        class Groups(LoadScopeScheduling):
            def _split_scope(self, nodeid: str) -> str:
                return group(nodeid)

        return Groups(config, log)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        if hasattr(config, "workerinput"):
            items.sort(key=lambda item: rank(group(item.nodeid)))  # stable

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
            tests = "test" if count == 1 else "tests"
            reporter.write_line(f"skipped: {count} {tests}: {why}", yellow=True, bold=True)
        if not self.left_out:
            reporter.write_line("skipped: nothing")
        minutes, seconds = divmod(round(time.monotonic() - self.begin), 60)
        workers = session.config.getoption("numprocesses", None) or 1
        reporter.write_line(
            f"took {minutes} min {seconds} s with {workers} workers on {os.cpu_count()} cores"
        )
