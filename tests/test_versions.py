import re
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from tests import versions
from tests.evaluation import test_evaluate as evaluation


@pytest.mark.parametrize(
    ("requirement", "unbounded"),
    [
        ("torch>=2.6", "torch>=2.6"),
        ("torch>=2.6,<3", "torch>=2.6"),
        ("jsonargparse[signatures]>=4.49, <5", "jsonargparse[signatures]>=4.49"),
        ("numpy<3", "numpy"),
        ("pillow!=11.2,<=13,>=10", "pillow!=11.2,>=10"),
    ],
)
def test_upper_bounds_are_stripped_and_nothing_else(requirement: str, unbounded: str) -> None:
    assert versions.unbounded(requirement) == unbounded


def test_every_requirement_has_a_lower_bound_and_extras_are_among_them() -> None:
    requirements = versions.requirements()
    assert all(re.fullmatch(r"[\w.-]+(\[\w+\])?>=[\d.]+(,.*)?", line) for line in requirements)
    assert {"torch", "s3fs", "pytest"} <= {line.partition(">")[0] for line in requirements}


def test_the_supported_pythons_are_those_that_are_looked_for() -> None:
    told = re.findall(r"Python :: 3\.(\d+)", versions.settings()["metadata"]["classifiers"])
    assert int(told[0]) == versions.oldest_minor()
    assert int(told[-1]) <= versions.NEWEST


def newest_only(requirement: Requirement, installed: Version, needs: SpecifierSet) -> bool:
    """Whether a requirement admits no release series older than one that leaves our oldest Python.

    Args:
        requirement: with a lower bound.
        installed: version of it.
        needs: the Pythons of that version.
    """
    if needs.contains(f"3.{versions.oldest_minor()}"):
        return False
    [bound] = [Version(one.version) for one in requirement.specifier if one.operator == ">="]
    return bound.release[:2] >= installed.release[:2]


def test_the_oldest_python_is_not_left_behind() -> None:
    """A library that has left it must be allowed in a version from before."""
    assert newest_only(Requirement("x>=0.12"), Version("0.12.1"), SpecifierSet(">=3.11"))
    assert not newest_only(Requirement("x>=0.11"), Version("0.12.1"), SpecifierSet(">=3.11"))
    assert not newest_only(Requirement("x>=0.12"), Version("0.12.1"), SpecifierSet(">=3.10"))
    checked = 0
    for requirement in map(Requirement, versions.requirements()):
        try:
            found = metadata.distribution(requirement.name)
        except metadata.PackageNotFoundError:
            continue
        needs = SpecifierSet(found.metadata["Requires-Python"] or "")
        assert not newest_only(requirement, Version(found.version), needs), requirement
        checked += 1
    assert checked > 30


def test_a_python_that_is_found_but_does_not_run_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    minor = sys.version_info.minor
    shim, install = tmp_path / "shims", tmp_path / f"pyenv/versions/3.{minor}.1/bin"
    for folder in (shim, install):
        folder.mkdir(parents=True)
    (shim / f"python3.{minor}").write_text("#!/bin/sh\nexit 127\n")
    (shim / f"python3.{minor}").chmod(0o755)
    monkeypatch.setenv("PATH", str(shim))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    assert versions.find_python(minor) is None
    python = install / f"python3.{minor}"
    python.symlink_to(sys.executable)
    assert versions.find_python(minor) == python
    assert versions.find_python(minor + 1) is None


def test_what_is_wanted_and_not_there_is_one_line() -> None:
    with pytest.raises(SystemExit, match=r"^versions: the oldest supported Python, 3\.\d+, is not"):
        versions.environments("oldest", {14: Path("python3.14")})


def test_the_newest_is_unbounded_on_the_newest_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "requirements", lambda: ["torch>=2.6,<3", "numpy>=1.26"])
    pythons = {10: Path("python3.10"), 13: Path("python3.13")}
    [newest] = versions.environments("newest", pythons)
    assert (newest.minor, newest.requirements) == (13, ["torch>=2.6", "numpy>=1.26"])
    assert [e.minor for e in versions.environments("pythons", pythons)] == [10, 13]
    [oldest] = versions.environments("oldest", pythons)
    assert (oldest.minor, oldest.resolution) == (10, "lowest-direct")


def test_counts_are_those_of_pytest(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    suite = '<testsuite tests="9" failures="{}" errors="{}" skipped="{}"/>'
    report.write_text(f"<testsuites>{suite.format(2, 1, 0)}</testsuites>")
    assert versions.counts(report) == "6 passed, 2 failed, 1 in error"
    report.write_text(f"<testsuites>{suite.format(0, 0, 0)}</testsuites>")
    assert versions.counts(report) == "9 passed"


def test_the_quick_tests_train_and_evaluate() -> None:
    """Else a version with which no run gets beyond its first step would pass."""
    trained = evaluation.test_the_report_says_what_was_scored
    assert not getattr(trained, "pytestmark", []) and not hasattr(evaluation, "pytestmark")
