"""Which code runs: the commit that the package is at, and what was changed since."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pattlite_dist

PACKAGE = Path(pattlite_dist.__file__).parent


def git_state(folder: Path = PACKAGE) -> dict[str, str | None]:
    """The commit that the package's code is at, and the diff of the working tree.

    Untracked modules of the package are part of the diff. None if the package is not tracked by
    git, for example because it was installed.
    """

    def git(*arguments: str, good: Sequence[int] = (0,)) -> str | None:
        try:
            done = subprocess.run(
                ["git", *arguments],
                cwd=folder, capture_output=True, text=True, errors="replace", timeout=60,
                check=False,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout if done.returncode in good else None

    if git("ls-files", "--error-unmatch", "__init__.py") is None:
        return {"commit": None, "diff": None}
    # So that `git apply` accepts it, whatever the user's settings.
    diff = ("diff", "--no-color", "--no-ext-diff", "--src-prefix=a/", "--dst-prefix=b/")
    commit, changes = git("rev-parse", "HEAD"), git(*diff, "HEAD")
    top = (git("rev-parse", "--show-toplevel") or "").removesuffix("\n")
    new = git("ls-files", "--others", "--exclude-standard", "--full-name", "-z", "--", "*.py") or ""
    if changes is not None:
        for name in filter(None, new.split("\0")):
            added = ("--no-index", os.devnull, name)
            changes += git("-C", top, *diff, *added, good=(0, 1)) or ""
    return {"commit": commit and commit.strip(), "diff": changes}
