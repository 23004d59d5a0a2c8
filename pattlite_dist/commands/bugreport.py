"""`pattlite doctor --report`: what a bug report needs, ready to be pasted, and nothing private."""

import contextlib
import getpass
import re
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

from pattlite_dist.commands.versions import lines
from pattlite_dist.config import Config, flat, given_away
from pattlite_dist.logins import without_secrets


def bug_report(findings: Iterable[str], config: Config | None) -> Iterator[str]:
    """Lines of Markdown: versions, what the doctor found, and the settings that were changed.

    Args:
        findings: of the doctor, a line each.
        config: of the run; None if none was given.
    """
    yield "```text"
    yield from lines()
    yield ""
    yield from (impersonal(line) for line in findings)
    if config is not None:
        yield ""
        yield from (impersonal(line) for line in changed(config))
    yield "```"


def changed(config: Config) -> Iterator[str]:
    """The settings that are not the defaults; of folders only the names, and no W&B account."""
    ours, default = (flat(given_away(one).model_dump(mode="json")) for one in (config, Config()))
    for key, value in ours.items():
        if value != default[key]:
            yield f"{key}={value}"


def impersonal(text: str) -> str:
    """A text without logins, this folder, the home folder, and the names of user and machine."""
    text = without_secrets(text)
    host = socket.gethostname()
    hidden = [
        (str(Path.cwd()), "."), (str(Path.home()), "~"),
        (host, "HOST"), (host.partition(".")[0], "HOST"),
    ]  # fmt: skip
    with contextlib.suppress(KeyError, OSError):  # a user without a name, as in some containers
        hidden.append((getpass.getuser(), "USER"))
    for word, instead in hidden:
        if len(word) > 1:  # not `/`, the home of who has none
            text = re.sub(rf"(?<![\w-]){re.escape(word)}(?![\w-])", instead, text)
    return text
