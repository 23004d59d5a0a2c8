"""What a job runs, pinned in its run folder: configuration, commit, diff, versions, code."""

import hashlib
import json
import os
import shutil
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from pattlite_dist.errors import UserError
from pattlite_dist.files import write_text
from pattlite_dist.runtime.code import PACKAGE, git_state
from pattlite_dist.slurm.profile import Profile

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
