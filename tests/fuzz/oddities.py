"""Trees and bytes that are nearly right: what a hand, a disk or an attacker makes of a file."""

import copy
import os
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

settings.register_profile("few", max_examples=30)
settings.register_profile("fuzz", max_examples=10_000)
settings.register_profile(
    "some", max_examples=300, phases=[Phase.explicit, Phase.generate], report_multiple_bugs=False
)
_CHOSEN = settings.get_profile(os.environ.get("PATTLITE_FUZZ", "few"))


def fuzzed(share: float = 1) -> settings:
    """How many examples a test tries: `make fuzz` sets PATTLITE_FUZZ=fuzz.

    Args:
        share: of the profile's number, for a test whose examples take long.
    """
    return settings(
        _CHOSEN,
        max_examples=max(1, int(_CHOSEN.max_examples * share)),
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


# With half of a surrogate pair, which JSON can write and no file can hold.
TEXT = st.text(max_size=8) | st.sampled_from(
    ["", "\n", "a\nb", "\ud800", "\x00", "1e400", "~", "!!python/name:os.system", "${x}", "%j"]
)
NUMBERS = (
    st.integers(-3, 300)
    | st.integers()
    | st.sampled_from([2**24, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 10**30, -(10**30), 10**400])
    | st.floats()
)
SMALL = st.none() | st.booleans() | NUMBERS | TEXT
ODD = st.recursive(
    SMALL,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path to every node below the root."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if _list(tree) else ()
    found = []
    for key, value in inner:
        found += [(*path, key), *places(value, (*path, key))]
    return found


def _list(tree: Any) -> bool:
    return isinstance(tree, list)


@st.composite
def nearly(draw: st.DrawFn, tree: Any) -> Any:
    """The tree with up to three nodes replaced, removed, renamed, or one beside them added."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        found = places(tree)
        if not found:
            break
        *path, last = draw(st.sampled_from(found))
        node = tree
        for key in path:
            node = node[key]
        how = draw(st.sampled_from(["replace", "replace", "replace", "remove", "add", "swap"]))
        if how == "replace":
            node[last] = draw(ODD)
        elif how == "swap":  # a value that is right elsewhere
            other = tree
            for key in draw(st.sampled_from(found)):
                other = other[key]
            node[last] = copy.deepcopy(other)
        elif how == "remove":
            del node[last]
        elif isinstance(node, dict):
            node[draw(TEXT)] = draw(ODD)
        else:
            node.append(draw(ODD))
    return tree


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes with up to three pieces overwritten, removed, repeated, or put between."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(changed)))
        length = draw(st.sampled_from([1, 1, 2, 8, 100, 512, 4096]))
        how = draw(st.sampled_from(["overwrite", "overwrite", "remove", "repeat", "insert", "cut"]))
        if how == "overwrite":
            piece = draw(st.binary(min_size=1, max_size=12))
            changed[start : start + len(piece)] = piece
        elif how == "remove":
            del changed[start : start + length]
        elif how == "repeat":
            changed[start:start] = changed[start : start + length]
        elif how == "insert":
            changed[start:start] = draw(st.binary(max_size=12))
        else:
            del changed[start:]
    return bytes(changed)
