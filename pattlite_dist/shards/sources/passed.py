"""What is said of files that are passed over."""

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

from pattlite_dist.shards.sources.spellings import shown

_MOST = 6  # kinds, or folders of a kind, that are named


def counted(names: Sequence[str]) -> str:
    """Files by suffix and folder: `3 .txt (2 in train/cat, 1 in test/cat), 1 without suffix`."""
    kinds: dict[str, Counter[str]] = {}
    for name in names:
        path = PurePosixPath(name)
        kinds.setdefault(path.suffix.lower(), Counter())[str(path.parent)] += 1
    order = sorted(kinds.items(), key=lambda kind: (-kind[1].total(), kind[0]))
    told = [
        f"{folders.total():,} {suffix or 'without suffix'}{_places(folders)}"
        for suffix, folders in order
    ]
    return shown(", ".join(_first(told)))


def _places(folders: Counter[str]) -> str:
    if list(folders) == ["."]:
        return ""
    order = sorted(folders.items(), key=lambda item: (-item[1], item[0]))
    told = [f"{count:,} in {'the top folder' if name == '.' else name}" for name, count in order]
    return f" ({', '.join(_first(told))})"


def _first(told: list[str]) -> list[str]:
    more = len(told) - _MOST
    return told if more <= 0 else [*told[:_MOST], f"and {more} more"]
