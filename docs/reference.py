"""The pages `commands` and `configuration`, written from the parsers and the settings themselves.

sphinx-argparse reads a verb's parser too, but repeats the configuration's hundred keys for each of
six verbs, and knows neither their ranges nor which are fixed once a run has begun.
"""

from argparse import SUPPRESS, Action
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from pattlite_dist.cli import parser_of
from pattlite_dist.commands.helptext import described, placeholder
from pattlite_dist.commands.verbs import VERBS
from pattlite_dist.compat.jsonargparse import actions, type_of
from pattlite_dist.config import Config
from pattlite_dist.settings import is_free


def commands() -> Iterator[str]:
    """Each verb: what it is for, an example, its options."""
    for name, verb in VERBS.items():
        parser = parser_of(name)
        parser.format_help()  # puts each option's help into its final words
        yield f"## {name}\n\n{verb.purpose[0].upper()}{verb.purpose[1:]}.\n"
        yield f"```text\npattlite {name} {verb.takes}".rstrip()
        yield f"pattlite {verb.example}\n```\n"
        rows = [action for action in actions(parser) if action.help not in (None, SUPPRESS)]
        shown = [one for one in rows if one.dest != "help" and "." not in one.dest]
        if any("." in action.dest for action in rows):
            shown = [one for one in shown if one.dest not in Config.model_fields]
            yield "And [every key of the configuration](configuration.md).\n"
        if shown:
            yield "| option | |\n|---|---|"
        for action in shown:
            option = f"{', '.join(action.option_strings)} {_value(action)}".strip()
            yield f"| {_code(option)} | {_cell(action.help or '')} |"
        yield ""


def configuration() -> Iterator[str]:
    """The keys of each part: what they take, their default, what they are for."""
    yield from _part(Config, "")
    for name, field in Config.model_fields.items():
        part = field.annotation
        if isinstance(part, type) and issubclass(part, BaseModel):
            yield f"## {name}\n\n{(part.__doc__ or '').strip()}\n"
            yield from _part(part, f"{name}.")


def _part(model: type[BaseModel], prefix: str) -> Iterator[str]:
    helps = {action.dest: action for action in actions(parser_of("train"))}
    yield "| key | | |\n|---|---|---|"
    for name, field in model.model_fields.items():
        action: Any = helps.get(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            continue
        takes = placeholder(type_of(action))
        choices = f"{_code(takes)}: " if takes.startswith("{") else ""
        fixed = "" if is_free(field) else "fixed"
        yield f"| {_code(prefix + name)} | {choices}{_cell(described(action))} | {fixed} |"
    yield ""


def _value(action: Action) -> str:
    """What the help calls the value of an option; empty if it takes none."""
    if action.nargs == 0:
        return ""
    if action.choices is not None:
        return "{" + ",".join(map(str, action.choices)) + "}"
    return str(action.metavar or action.dest.upper())


def _code(text: str) -> str:
    return f"`{text.replace('|', chr(92) + '|')}`"


def _cell(text: str) -> str:
    """Words for a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


PAGES = {"commands": commands, "configuration": configuration}


def fill(app: object, page: str, source: list[str]) -> None:
    """Append what is generated to a page as it is read."""
    if page in PAGES:
        source[0] += "\n".join(PAGES[page]())


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("source-read", fill)
    return {"parallel_read_safe": True}
