"""Configurations written by earlier versions, brought up to date: a tree in, a tree out.

What a run writes into its folder and its checkpoints states its version; without one it is 0.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pattlite_dist import __version__
from pattlite_dist.errors import UserError

Tree = dict[str, Any]


def replaced(tree: Tree, key: str, names: Mapping[str, str]) -> Tree:
    """A copy of the tree in which a dotted key's value, if it is an old name, is the new one."""
    part, _, rest = key.partition(".")
    inner = tree.get(part)
    if rest:
        return {**tree, part: replaced(inner, rest, names)} if isinstance(inner, dict) else tree
    return {**tree, part: names[inner]} if isinstance(inner, str) and inner in names else tree


def _network_has_a_name(tree: Tree) -> Tree:
    """0 to 1: `seed` said where the network came from, not what it is."""
    return replaced(tree, "model.name", {"seed": "mobilenetv2-vit"})


def _positions_were_decayed(tree: Tree) -> Tree:
    """1 to 2: weight decay included position embeddings, which one of the networks has."""
    model, optim = tree.get("model"), tree.get("optim")
    if not isinstance(optim, dict) or (isinstance(model, dict) and model.get("name") == "pattlite"):
        return tree
    return {**tree, "optim": {"decay_positions": True, **optim}}


# STEPS[n] takes a tree from version n to n + 1. A step that was released never changes.
STEPS: Sequence[Callable[[Tree], Tree]] = (_network_has_a_name, _positions_were_decayed)
VERSION = len(STEPS)


def migrate(tree: Tree, where: str) -> Tree:
    """The same configuration as the newest version writes it, without the key `version`.

    Args:
        tree: not modified.
        where: it was read from, for messages.

    Raises:
        UserError: its version is not a version, or is newer than this package.
    """
    version = tree.get("version", 0)
    if isinstance(version, bool) or not isinstance(version, int) or version < 0:
        raise UserError(f"{where}: version: {version!r} is not a version; restore it")
    if version > VERSION:
        raise UserError(
            f"{where}: version: this configuration has version {version}, and pattlite_dist "
            f"{__version__} reads versions up to {VERSION}; install a newer pattlite_dist"
        )
    tree = {key: value for key, value in tree.items() if key != "version"}
    for step in STEPS[version:]:
        tree = step(tree)
    return tree
