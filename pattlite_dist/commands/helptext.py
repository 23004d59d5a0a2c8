"""The help of a verb: what each option is for and takes, in words."""

import types
from argparse import SUPPRESS, Action
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from pattlite_dist.commands.verbs import introduction, usage
from pattlite_dist.compat.jsonargparse import actions, plain_formatter, takes_a_part, type_of
from pattlite_dist.location import Place
from pattlite_dist.settings import is_a

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

# Of a number.
_BOUNDS = {"ge": "at least {}", "gt": "above {}", "le": "at most {}", "lt": "below {}"}
_NONE = (None, type(None))


def parser_with_help(verb: str) -> "ArgumentParser":
    """A parser without options, whose help begins with the purpose of the verb and an example."""
    from jsonargparse import ArgumentParser

    class Parser(ArgumentParser):
        def format_help(self, *args: Any) -> str:
            if self.epilog is None:  # once
                found = actions(self)
                keys = any("." in action.dest for action in found)
                self.epilog = _KEYS if keys else ""
                for action in found:
                    _describe(action)
            return introduction(verb) + str(super().format_help(*args))

    return Parser(
        prog=f"pattlite {verb}",
        usage=usage(verb).replace("%", "%%"),
        exit_on_error=False,
        allow_abbrev=False,  # `--optim.lr_` would be `optim.lr_rule`
        formatter_class=plain_formatter(),
    )


# As the usage names them.
_POSITIONALS = {
    "target": "RUN",
    "runs": "RUN",
    "folders": "RUN",
    "targets": "RUN|JOB",
    "words": "KEY=V,V",
}
_KEYS = "Keys of the configuration can also be given without dashes, as in optim.lr=5e-4."


def _describe(action: Action) -> None:
    """Replace the help of an option, and the name of its value, by what the help shows."""
    if takes_a_part(action):
        action.help = SUPPRESS
        return
    if action.dest == "print_config":
        action.help = "print the resolved configuration and exit"
    elif not action.option_strings:
        action.metavar = _POSITIONALS.get(action.dest, action.dest.upper())
    elif action.choices is None and action.nargs != 0 and type_of(action) is not None:
        action.metavar = placeholder(type_of(action))
    action.help = described(action) or " "


def described(action: Action) -> str:
    """What an option is for, with what it takes and its default in parentheses."""
    text = " ".join((action.help or "").split())
    told = [] if type_of(action) is None else [words(type_of(action))]
    default = action.default
    if default is None and type_of(action) is not None:
        if "default" not in text and _optional(type_of(action)):
            told.append("default null")
    elif action.option_strings and action.nargs != 0 and default not in (SUPPRESS, []):
        told.append(f"default {_value(default)}" if default is not None else "")
    inside = ", ".join(filter(None, told))
    if not inside or not text:
        return text or inside
    if "(default" in text and text.endswith(")"):
        return f"{text.removesuffix(')')}; {inside})"
    return f"{text if '. ' in text else text.removesuffix('.')} ({inside})"


def _value(default: Any) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple | list):
        return "[" + ",".join(map(str, default)) + "]"
    return f"{default:g}" if isinstance(default, float) else str(default)


def placeholder(kind: Any) -> str:
    """The name for a value of a type: `NUMBER`, or all values if there are just a few."""
    base, _ = _bare(kind)
    few = _few(base)
    if few:
        return "{" + ",".join(few) + "}"
    if get_origin(base) is tuple:
        return "[" + ",".join("NUMBER" for _ in get_args(base)) + "]"
    if is_a(base, int) or is_a(base, float):
        return "NUMBER"
    return "PATH" if base is Path or _is_place(kind) else "TEXT"


def words(kind: Any) -> str:
    """What a number of a type has to be; empty for a type of which the placeholder says enough."""
    base, marks = _bare(kind)
    if base is bool or not (is_a(base, int) or is_a(base, float)):
        return ""
    return ("whole number" if is_a(base, int) else "number") + _range(base, marks)


def _range(base: type, marks: list[Any]) -> str:
    bounds = {
        name: getattr(mark, name) for mark in marks for name in _BOUNDS if hasattr(mark, name)
    }
    if base.__name__ == "PositiveInt":
        bounds["ge"] = 1
    if {"ge", "le"} <= bounds.keys():
        return f" from {bounds['ge']:g} to {bounds['le']:g}"
    told = [text.format(f"{bounds[name]:.10g}") for name, text in _BOUNDS.items() if name in bounds]
    return f" {' and '.join(told)}" if told else ""


def _bare(kind: Any) -> tuple[Any, list[Any]]:
    """A type without marks and without null, and its marks."""
    marks: list[Any] = []
    while True:
        if get_origin(kind) is Annotated:
            kind, *more = get_args(kind)
            marks += more
            continue
        rest = [part for part in _parts(kind) if part not in _NONE]
        if not _optional(kind) or len(rest) != 1:
            return kind, marks
        kind = rest[0]


def _parts(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _optional(kind: Any) -> bool:
    if get_origin(kind) is Annotated:
        return _optional(get_args(kind)[0])
    return any(part in _NONE for part in _parts(kind))


def _few(kind: Any) -> list[str]:
    """All values of a type, if it has just a few."""
    found: list[str] = []
    for part in _parts(kind):
        if part is bool:
            found += ["true", "false"]
        elif get_origin(part) is Literal:
            found += [str(value) for value in get_args(part)]
        else:
            return []
    return found


def _is_place(kind: Any) -> bool:
    _, marks = _bare(kind)
    return any(isinstance(mark, Place) for mark in marks)
