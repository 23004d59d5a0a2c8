"""The pages for users, and the commands that stand in them."""

import re
import shlex
from typing import NamedTuple

from tests.conftest import ROOT

BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>[^\n]*) -->\n)?```(?P<kind>\S*)\n(?P<text>.*?)^```$", re.M | re.S
)
LINK = re.compile(r"(?<!`)\[[^\]]*\]\(([^)\s]+)\)")
# See CONTRIBUTING.md: how a block is tested, if it is not simply run.
MARKS = ("cluster", "parsed", "tested", "by hand")


class Command(NamedTuple):
    """A command of a page.

    Attributes:
        page: its path in the repository.
        line: without the prompt; a continued line is joined.
        how: `run`, or one of `MARKS`.
        why: what the mark adds.
    """

    page: str
    line: str
    how: str = "run"
    why: str = ""


def pages() -> list[str]:
    """README and the pages of docs/ in the order of its index, then what is beside them."""
    index = (ROOT / "docs" / "index.md").read_text()
    trees = re.findall(r"^```\{toctree\}\n(?::[^\n]*\n)*(.*?)^```", index, re.M | re.S)
    listed = [f"docs/{name}.md" for tree in trees for name in tree.split()]
    beside = ["shards/README.md", "benchmarks/README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
    return ["README.md", "docs/index.md", *listed, *beside]


def blocks(page: str) -> list[tuple[str, str, str]]:
    """Mark, language and text of each fenced block of a page."""
    found = BLOCK.finditer((ROOT / page).read_text())
    return [(block["mark"] or "", block["kind"], block["text"]) for block in found]


def commands(page: str) -> list[Command]:
    """The commands of a page, in their order."""
    found = []
    for mark, kind, text in blocks(page):
        how, _, why = mark.partition(": ")
        for line in text.replace("\\\n", " ").splitlines() if kind == "console" else ():
            if line.startswith("$ "):
                found.append(Command(page, " ".join(line[2:].split()), how or "run", why))
    return found


def told(how: str) -> list[Command]:
    """The commands of all pages that are tested in one way."""
    return [one for page in pages() for one in commands(page) if one.how == how]


def words(line: str) -> list[str]:
    """The arguments of `pattlite` in a command; empty if it does not call it."""
    parts = shlex.split(line, comments=True)
    while parts and re.fullmatch(r"[A-Z_]+=.*", parts[0]):
        del parts[0]
    if ">" in parts:
        del parts[parts.index(">") :]
    for start in (["pattlite"], ["launch/torchrun.sh"]):
        if parts[: len(start)] == start:
            return parts[len(start) :]
    return []
