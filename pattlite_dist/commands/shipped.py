"""`pattlite configs|profiles [copy]`: list, and copy, what comes with the package."""

from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from pattlite_dist.shipped import CONFIGS, PROFILES, Kind, about, copy, shipped

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

_USES = {CONFIGS: "pattlite train -c", PROFILES: "pattlite submit -c fer2013 --profile"}


def configs_options(parser: "ArgumentParser") -> None:
    """None."""


def configs(options: Any) -> int:
    """List the configurations."""
    return _list(CONFIGS)


def profiles_options(parser: "ArgumentParser") -> None:
    """None."""


def profiles(options: Any) -> int:
    """List the cluster profiles."""
    return _list(PROFILES)


def copy_config_options(parser: "ArgumentParser") -> None:
    """Options of `configs copy`."""
    _copy_options(parser)


def copy_config(options: Any) -> int:
    """Copy a configuration."""
    return _copy(CONFIGS, options)


def copy_profile_options(parser: "ArgumentParser") -> None:
    """Options of `profiles copy`."""
    _copy_options(parser)


def copy_profile(options: Any) -> int:
    """Copy a cluster profile."""
    return _copy(PROFILES, options)


def _list(kind: Kind) -> int:
    files = shipped(kind)
    width = max(map(len, files)) + 2
    for name, path in files.items():
        print(
            fill(about(path), 96, initial_indent=name.ljust(width), subsequent_indent=" " * width)
        )
    first = next(iter(files))
    print(f"\nUse one by its name, as in `{_USES[kind]} {first}`, or copy it to edit it:")
    print(f"`pattlite {kind.verb} copy {first}`. They are in {files[first].parent}.")
    return 0


def _copy_options(parser: "ArgumentParser") -> None:
    parser.add_argument("name", type=str, help="of the file to copy")
    parser.add_argument(
        "out", type=Path, nargs="?", help="file or folder to write (default: NAME.yaml here)"
    )


def _copy(kind: Kind, options: Any) -> int:
    path = copy(kind, options.name, options.out)
    print(f"{path}: a copy of {options.name}; edit it, then `{_USES[kind]} {path}`")
    return 0
