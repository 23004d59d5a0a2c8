"""The option `-c`: a configuration file, possibly written by a run or with old names."""

import json
from argparse import ArgumentError
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, get_loader  # type: ignore[attr-defined]

from pattlite_dist.commands.messages import essence
from pattlite_dist.compat.jsonargparse import flags
from pattlite_dist.errors import UserError
from pattlite_dist.logins import put_away
from pattlite_dist.migrate import migrate
from pattlite_dist.renamed import rename, rename_file, tell
from pattlite_dist.shipped import CONFIGS, find

_LARGEST = 1 << 20  # bytes; ten megabytes of YAML take a minute to read


class ConfigFile(ActionConfigFile):
    """Reads a file as jsonargparse does, with current names.

    A name is that of a file in `configs/` or of the package. A file may state its `version`, which
    is not an option; without one, the newest is assumed.
    """

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: Any = None) -> None:
        """Add the contents of the file to the options.

        Raises:
            UserError: there is no such file, or it is no configuration of this version.
        """
        path, sentences = rename_file(str(values))
        tell(sentences)
        path = str(find(CONFIGS, path))
        try:
            super().__call__(parser, cfg, renewed(path) or path, option_string)  # type: ignore[no-untyped-call]
        except (ArgumentError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: {essence(str(error), flags(parser))}") from error


def renewed(path: str) -> str | None:
    """The text of a file brought up to date, without secrets; None if there is nothing to change.

    Also if it cannot be read: jsonargparse, which reads it next, reports why.

    Raises:
        UserError: the file is no configuration, or has a version that this package does not know.
    """
    wrong = f"{path} is not a configuration, a YAML file such as those of `pattlite configs`"
    try:
        if Path(path).is_file() and Path(path).stat().st_size > _LARGEST:
            raise UserError(f"{wrong}: it is too large; give it without -c if it is data")
        # As jsonargparse reads it: there, 1e-3 is a number.
        tree = get_loader("yaml")(Path(path).read_text(encoding="utf-8"))
    except OSError:
        return None
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise UserError(f"{path}: {line}{error.problem or error.context}; fix the YAML") from error
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{wrong}: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise UserError(f"{wrong}: it has no keys; give it without -c if it is data")
    new, sentences = (migrate(tree, path), []) if "version" in tree else rename(tree)
    tell(f"{path}: {sentence}" for sentence in sentences)
    new = _without_secrets(new)
    # JSON is YAML in which a string cannot be mistaken for anything else.
    return None if new == tree else json.dumps(new, default=str)


def _without_secrets(tree: dict[str, Any]) -> dict[str, Any]:
    """The same with `data.shards` as it is stored, for `--print-config` and errors."""
    data = tree.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("shards"), str):
        return tree
    return {**tree, "data": {**data, "shards": put_away(data["shards"])}}
