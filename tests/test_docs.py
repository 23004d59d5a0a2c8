"""The documentation: it builds without a warning, its links lead somewhere, its commands exist."""

import configparser
import contextlib
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

import pattlite_dist
from pattlite_dist.cli import VERBS, parse
from pattlite_dist.commands.options import given_config
from pattlite_dist.config import Config, flat
from pattlite_dist.errors import UserError
from tests.conftest import ROOT, environment
from tests.documents import LINK, MARKS, blocks, commands, pages, told, words

BY_HAND = 21  # commands that no test runs: raise it only for what cannot be run


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages, built as `make docs` does; any warning, as of a link to nowhere, is an error."""
    folder = tmp_path_factory.mktemp("site")
    # No proxy answers there, so nothing can be fetched.
    env = environment(http_proxy="http://127.0.0.1:9", https_proxy="http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html",
         "-d", str(folder / "trees"), str(ROOT / "docs"), str(folder / "html")],
        env=env, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "html"


@pytest.mark.slow
def test_the_site_has_all_pages_names_verbs_and_keys(site: Path) -> None:
    assert {path.stem for path in site.glob("*.html")} >= {
        path.stem for path in (ROOT / "docs").glob("*.md")
    }
    api = (site / "api.html").read_text()
    for name in set(pattlite_dist.__all__) - {"__version__"}:
        assert f'id="pattlite_dist.{name}"' in api
    told = (site / "commands.html").read_text()
    for verb in VERBS:
        assert f'id="{verb.replace(" ", "-")}"' in told
    for option in ("--blanks", "--only-failed", "--views", "--report"):
        assert f">{option}" in told
    keys = (site / "configuration.html").read_text()
    for key in flat(Config().model_dump()):
        assert f">{key}<" in keys


def anchors(page: Path) -> set[str]:
    """What `#…` may name in a page, as GitHub makes it of headings."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", pages())
def test_the_links_of_a_page_lead_somewhere(page: str) -> None:
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.M | re.S)
    for link in LINK.findall(text):
        if "://" in link:  # not fetched
            parts = urlsplit(link)
            assert parts.scheme == "https" and "." in parts.netloc, link
            continue
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), link
        included = {"format.md": "shards", "performance.md": "benchmarks"}.get(target.name)
        source = ROOT / included / "README.md" if included else target
        assert not anchor or anchor in anchors(source), link


def test_every_page_is_in_the_index() -> None:
    beside = {"docs/commands.md", "docs/configuration.md"}
    assert {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} <= {*pages(), *beside}


@pytest.mark.parametrize("page", pages())
def test_a_command_stands_in_a_block_of_commands_with_a_known_mark(page: str) -> None:
    """So that none is passed over."""
    for mark, kind, text in blocks(page):
        if kind == "console":
            assert not mark or mark.partition(":")[0] in MARKS, mark
            assert not mark or mark == "cluster" or ": " in mark, "the mark has no reason"
        elif page != "shards/README.md":  # which says how other programs read a set
            assert not re.search(r"^(\$|make|pattlite .*[/=]|torchrun|python) ", text, re.M), text


def test_what_no_test_runs_is_counted() -> None:
    found = told("by hand")
    assert len(found) == BY_HAND, [one.line for one in found]
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for one in found:
        scripts = re.findall(r"\b(?:benchmarks|tests)/\S+\.(?:py|sh)\b", one.line)
        for script in scripts:  # its options at least are there, or in a module beside it
            assert (ROOT / script).is_file()
            _, _, given = one.line.partition(script)
            options = set(re.findall(r"--[a-z-]+", given))
            text = "".join(path.read_text() for path in (ROOT / script).parent.glob("*.py"))
            assert {option for option in options if f'"{option}"' not in text} == set(), one
        extras = re.findall(r"pattlite_dist\[(.*?)\]", one.line)
        assert {*extras} <= {*setup["options.extras_require"]}
        targets = re.findall(r"^make (\S+)", one.line)
        makefile = (ROOT / "Makefile").read_text()
        assert all(re.search(rf"^[^#\n]*\b{name}\b.*:", makefile, re.M) for name in targets)


def test_what_another_test_runs_is_there() -> None:
    found = told("tested")
    assert found
    for one in found:
        for name in one.why.split(", "):
            assert (ROOT / name).is_file(), one
    # Which tests/test_wheel.py, tests/test_pods.py and tests/test_makefile.py read.
    assert {one.page for one in found} == {"docs/use.md", "docs/cloud.md", "CONTRIBUTING.md"}


@pytest.mark.parametrize("page", [page for page in pages() if commands(page)])
def test_every_command_is_one_and_its_configuration_is_valid(page: str) -> None:
    for one in commands(page):
        arguments = words(one.line)
        if not arguments or ("[" in one.line.partition("--json")[0] and one.how == "by hand"):
            assert one.how != "parsed" or re.match(r"make |\. ", one.line), one
            continue
        verb = " ".join(arguments[:2]) if " ".join(arguments[:2]) in VERBS else arguments[0]
        options = read(verb, arguments[len(verb.split()) :])
        if "config" in options and verb != "sweep":
            given_config(options)


class Incomplete(Exception):
    """What a sentence leaves out, such as the run in `pattlite evaluate --views flip`."""


def read(verb: str, arguments: list[str]) -> Any:
    """The options of a command."""
    try:
        return parse(verb, arguments)
    except UserError as error:
        if "are required: " in str(error):
            raise Incomplete from None
        raise


def test_the_commands_in_sentences_are_read_too() -> None:
    count = 0
    for page in pages():
        text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.M | re.S)
        for line in re.findall(r"`((?:[A-Z]+=\S+ )*(?:pattlite|launch/torchrun\.sh) [^`]+)`", text):
            arguments = words(" ".join(line.split()))
            verb = " ".join(arguments[:2]) if " ".join(arguments[:2]) in VERBS else arguments[0]
            if verb in ("help", "--version") or "…" in line or len(arguments) == len(verb.split()):
                assert verb in (*VERBS, "help", "--version", "shards", "render"), line
                continue
            given = [{"CONFIG": "fer2013", "N": "1"}.get(word, word) for word in arguments]
            with contextlib.suppress(Incomplete):
                read(verb, given[len(verb.split()) :])
            count += 1
    assert count >= 10


def test_the_figure_is_what_its_script_draws() -> None:
    drawn = runpy.run_path(str(ROOT / "docs" / "dataflow.py"))["draw"]()
    assert drawn == (ROOT / "docs" / "dataflow.svg").read_text()


def test_the_readme_is_short_and_the_changelog_has_this_version() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
    assert f"\n## {pattlite_dist.__version__}\n" in (ROOT / "CHANGELOG.md").read_text()


def test_the_citation_has_what_the_format_requires() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["cff-version"] == "1.2.0"
    assert cited["version"] == pattlite_dist.__version__
    assert {"message", "title", "authors", "license"} <= cited.keys()
    paper = cited["references"][0]
    assert {"type", "title", "authors"} <= paper.keys()
    assert all({"family-names", "given-names"} == author.keys() for author in paper["authors"])


def test_the_issue_form_asks_for_the_report() -> None:
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text())
    labels = {part["attributes"]["label"]: part for part in form["body"]}
    asked = labels["`pattlite doctor --report`"]
    assert asked["type"] == "textarea" and asked["validations"]["required"]
    parse("doctor", ["--report"])
