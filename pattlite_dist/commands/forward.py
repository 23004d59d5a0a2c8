"""The command that a job runs, from the options of its submission."""

from typing import TYPE_CHECKING, Any

from pattlite_dist.compat.jsonargparse import actions, type_of

if TYPE_CHECKING:
    from jsonargparse import Namespace


def job_arguments(verb: str, options: "Namespace") -> list[str]:
    """The arguments after `pattlite` that give a verb the same options in any folder.

    All options of the verb's own parser are written out, including defaults, and no others: those
    of the submission, such as `--after`, are left out.

    Args:
        verb: that the job runs.
        options: parsed by a parser that has at least all options of the verb.
    """
    from pattlite_dist.cli import parser_of
    from pattlite_dist.location import absolute

    named, placed = [], []
    for action in actions(parser_of(verb)):
        value = absolute(options.get(action.dest), type_of(action))
        if value is None:  # an option that was not given, or --help
            continue
        flag = max(action.option_strings, key=len, default="")
        if not flag:
            placed.append(_text(value))
        elif action.nargs == 0:
            named += [flag] if value == action.const else []
        else:
            named.append(f"{flag}={_text(value)}")  # one word, as a value may begin with a dash
    return [*verb.split(), *named, *(["--", *placed] if placed else [])]


def _text(value: Any) -> str:
    """A value as the command line reads it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
