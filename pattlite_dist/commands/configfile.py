"""The option `-c`: a configuration file, possibly written by a run or with old names."""

import json
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, get_loader  # type: ignore[attr-defined]

from pattlite_dist.migrate import migrate
from pattlite_dist.renamed import rename, rename_file, tell


class ConfigFile(ActionConfigFile):
    """Reads a file as jsonargparse does, with current names.

    A file may state its `version`, which is not an option; without one, the newest is assumed.
    """

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: Any = None) -> None:
        """Add the contents of the file to the options.

        Raises:
            UserError: the file has a version that this package does not know.
        """
        path, sentences = rename_file(str(values))
        tell(sentences)
        super().__call__(parser, cfg, renewed(path) or path, option_string)  # type: ignore[no-untyped-call]


def renewed(path: str) -> str | None:
    """The text of a file brought up to date; None if there is nothing to change.

    Also if it cannot be read: whatever reads it next reports why.

    Raises:
        UserError: the file has a version that this package does not know.
    """
    try:
        # As jsonargparse reads it: there, 1e-3 is a number.
        tree = get_loader("yaml")(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    if not isinstance(tree, dict):
        return None
    new, sentences = (migrate(tree, path), []) if "version" in tree else rename(tree)
    tell(f"{path}: {sentence}" for sentence in sentences)
    # JSON is YAML in which a string cannot be mistaken for anything else.
    return None if new == tree else json.dumps(new, default=str)
