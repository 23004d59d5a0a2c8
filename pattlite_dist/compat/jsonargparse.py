"""What a parser of jsonargparse knows of its options, and how its help is written."""

from argparse import Action, HelpFormatter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pattlite_dist.compat.need import find, find_function

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

_NAME = "jsonargparse"


def actions(parser: "ArgumentParser") -> list[Action]:
    """The options and positionals of a parser, in order.

    Raises:
        UserError: this version does not say; names those that do.
    """
    found: list[Action] = find(_NAME, parser, "_actions")
    return found


def type_of(action: Action) -> Any:
    """The type of an option; jsonargparse keeps types that argparse does not know by itself."""
    return getattr(action, "_typehint", action.type)


def formatter(rewrite: Callable[[str], str]) -> type[HelpFormatter]:
    """A help formatter like jsonargparse's own, whose text of each option is rewritten.

    Raises:
        UserError: this version's cannot be changed so; names those whose can.
    """
    from jsonargparse import DefaultHelpFormatter

    find_function(_NAME, DefaultHelpFormatter, "_expand_help", ("action",))

    class Rewritten(DefaultHelpFormatter):
        def _expand_help(self, action: Any) -> str:
            return rewrite(super()._expand_help(action))

    return Rewritten
