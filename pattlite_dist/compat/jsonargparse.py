"""The options of a jsonargparse parser, and the formatting of its help."""

from argparse import Action, HelpFormatter
from typing import TYPE_CHECKING, Any

from pattlite_dist.compat.need import find, find_function

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

_NAME = "jsonargparse"


def actions(parser: "ArgumentParser") -> list[Action]:
    """The options and positionals of a parser, in order.

    Raises:
        UserError: this version does not provide them; names the supported versions.
    """
    found: list[Action] = find(_NAME, parser, "_actions")
    return found


def flags(parser: "ArgumentParser") -> dict[str, str]:
    """How users write each option of a parser, by the name of its value."""
    return {
        action.dest: max(action.option_strings, key=len)
        for action in actions(parser)
        if action.option_strings
    }


def type_of(action: Action) -> Any:
    """The type of an option; jsonargparse stores types unknown to argparse separately."""
    return getattr(action, "_typehint", action.type)


def takes_a_part(action: Action) -> bool:
    """Whether an option takes a file for a part of the configuration, as `--optim FILE`.

    It is only left out of the help, so that it does no harm if the name is gone.
    """
    return type(action).__name__ == "_ActionConfigLoad"


def plain_formatter() -> type[HelpFormatter]:
    """A help formatter like jsonargparse's own that shows the help of each option as it is.

    Raises:
        UserError: this version does not allow it; names the supported versions.
    """
    from jsonargparse import DefaultHelpFormatter

    find_function(_NAME, DefaultHelpFormatter, "_expand_help", ("action",))

    class Plain(DefaultHelpFormatter):
        def _expand_help(self, action: Any) -> str:
            return action.help or ""

    return Plain
