"""Old names that users may still write, for one minor version: read, with a warning.

For what a run has written see `migrate`.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pattlite_dist.migrate import Tree, replaced
from pattlite_dist.runtime.world import detect

_VALUES = {"model.name": {"seed": "mobilenetv2-vit"}}
_FILES = {"seed.yaml": "notebook.yaml"}  # of configs/
_told: set[str] = set()


def rename(tree: Tree) -> tuple[Tree, list[str]]:
    """A configuration with current names, and a sentence about each old one."""
    sentences = []
    for key, names in _VALUES.items():
        old = _value(tree, key)
        if isinstance(old, str) and old in names:
            tree = replaced(tree, key, names)
            sentences.append(_sentence(key, old))
    return tree, sentences


def rename_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The same for options, `--key value` and `--key=value`."""
    renamed, sentences = list(words), []
    for i, word in enumerate(words):
        flag, equals, value = word.partition("=")
        key = flag.removeprefix("--")
        if key == flag or key not in _VALUES:
            continue
        old = value if equals else next(iter(words[i + 1 : i + 2]), "")
        if old in _VALUES[key]:
            new = _VALUES[key][old]
            renamed[i if equals else i + 1] = f"{flag}={new}" if equals else new
            sentences.append(_sentence(key, old))
    return renamed, sentences


def rename_file(path: str) -> tuple[str, list[str]]:
    """The same for a configuration of the package, if the file exists only under its new name."""
    old = Path(path)
    if old.name not in _FILES:
        return path, []
    new = old.with_name(_FILES[old.name])
    if old.exists() or not new.exists():
        return path, []
    sentence = (
        f"{path} is now {new}, and its run {new.stem}, which name={old.stem} overrides to continue "
        f"an earlier one; {_UNTIL}"
    )
    return str(new), [sentence]


def tell(sentences: Iterable[str]) -> None:
    """Print each on standard error, once, on rank 0."""
    for sentence in sentences:
        if sentence not in _told and detect().main:
            print(f"pattlite: warning: {sentence}", file=sys.stderr, flush=True)
        _told.add(sentence)


_UNTIL = "the next minor version will no longer read the old name"


def _sentence(key: str, old: str) -> str:
    return f"{key} {old} is now {_VALUES[key][old]}; {_UNTIL}"


def _value(tree: Tree, key: str) -> Any:
    value: Any = tree
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
