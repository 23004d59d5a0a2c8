"""The options of a jsonargparse parser, and the formatting of its help."""

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
        UserError: this version does not provide them; names the supported versions.
    """
    found: list[Action] = find(_NAME, parser, "_actions")
    return found


def type_of(action: Action) -> Any:
    """The type of an option; jsonargparse stores types unknown to argparse separately."""
    return getattr(action, "_typehint", action.type)


def formatter(rewrite: Callable[[str], str]) -> type[HelpFormatter]:
    """A help formatter like jsonargparse's own that rewrites the help text of each option.

    Raises:
        UserError: this version does not allow it; names the supported versions.
    """
    from jsonargparse import DefaultHelpFormatter

    find_function(_NAME, DefaultHelpFormatter, "_expand_help", ("action",))

    class Rewritten(DefaultHelpFormatter):
        def _expand_help(self, action: Any) -> str:
            return rewrite(super()._expand_help(action))

    return Rewritten
