"""What a job runs, pinned in its run folder: configuration, commit, diff, versions, code."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

import pattlite_dist
from pattlite_dist.errors import UserError
from pattlite_dist.files import write_text
from pattlite_dist.slurm.profile import Profile

PACKAGE = Path(pattlite_dist.__file__).parent
PINNED = "pinned"


def package_digest(package: Path = PACKAGE) -> str:
    """SHA-256 over the names and the bytes of a package's modules."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("[!.]*.py")):  # editors' lock files start with a dot
        digest.update(f"{path.relative_to(package).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def versions() -> list[str]:
    """What is installed here, as pip writes it: `name==version`."""
    found = {
        f"{name}=={item.version}"
        for item in metadata.distributions()
        if (name := item.metadata["Name"])
    }
    return sorted(found, key=str.lower)


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


def pin(run: Path, profile: Profile, snapshot: bool) -> dict[str, Any]:
    """Record in `run/pinned` what the job will run, and copy the code if requested.

    Returns:
        What `pinned/facts.json` holds; `code` is the folder of the copy.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = run / PINNED
    state = git_state()
    facts = {
        "time": round(time.time(), 3),
        "command": sys.argv,
        "commit": state["commit"],
        "changed": bool(state["diff"]),
        "package": package_digest(),
        "python": sys.version.split()[0],
        "code": str(copy_code(run)) if snapshot else None,
    }
    hidden = dict.fromkeys(profile.secrets, "***")
    shown = profile.model_copy(update={"environment": {**profile.environment, **hidden}})
    write_text(folder / "profile.yaml", yaml.safe_dump(shown.model_dump(mode="json")))
    write_text(folder / "requirements.txt", "\n".join(versions()) + "\n")
    write_text(folder / "diff.patch", state["diff"] or "")
    write_text(folder / "facts.json", json.dumps(facts, indent=1) + "\n")
    return facts


def link_pinned(sweep: Path, run: Path) -> None:
    """Link a run of a sweep to what was pinned for all of its runs."""
    link = run / PINNED
    if not link.exists():
        link.symlink_to(os.path.relpath(sweep / PINNED, run))


def code_folder(run: Path) -> Path:
    """Where `copy_code` puts the package as it is now."""
    return run / f"code-{package_digest()[:12]}"


def copy_code(run: Path) -> Path:
    """Copy the package to `run/code-<digest>`, whole or not at all; returns that folder.

    The name identifies the content, so that a later submission does not change the code of a job
    that is in the queue.
    """
    folder = code_folder(run)
    if folder.exists():
        return folder
    part = folder.with_name(f".{folder.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        ignored = shutil.ignore_patterns("__pycache__", ".*")
        shutil.copytree(PACKAGE, part / PACKAGE.name, ignore=ignored)
        part.rename(folder)
    except OSError as error:
        raise UserError(f"cannot copy the code to {folder}: {error}; free some space") from error
    return folder


def warn_if_changed(run: Path) -> None:
    """Warn on standard error if the code is no longer what was submitted."""
    try:
        pinned = json.loads((run / PINNED / "facts.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if isinstance(pinned, dict) and pinned.get("package") not in (None, package_digest()):
        print(
            f"pattlite: warning: {PACKAGE} has changed since this job was submitted; "
            "submit with --snapshot to run the code as submitted",
            file=sys.stderr,
            flush=True,
        )
