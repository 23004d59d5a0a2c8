import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
def test_the_package_is_typed() -> None:
    """Here and not before the tests, for it takes as long as many of them: one core, a minute."""
    done = subprocess.run(
        [sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
