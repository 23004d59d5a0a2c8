"""A run's folder: where it is, its configuration, and whether this run may continue it."""

from pathlib import Path

import yaml

from pattlite_dist.config import Config, conflicts, parse_written, to_yaml
from pattlite_dist.errors import UserError
from pattlite_dist.files import write_text
from pattlite_dist.tracking.record import RECORD_NAME, rewind_metrics

CONFIG_NAME = "config.yaml"


def run_folder(config: Config) -> Path:
    """Where a run keeps everything."""
    return Path(config.runs) / config.name


def load_config(run: Path) -> Config:
    """The configuration that a run folder was created with.

    Raises:
        UserError: it is not a run folder.
    """
    path = run / CONFIG_NAME
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{run} is not a run folder: it has no config.yaml; train first") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"cannot read {path}: {reason}; restore it") from error
    return parse_written(content, str(path))


def same_run(config: Config, run: Path) -> Config:
    """Check that a folder, if it holds a run, holds this one.

    Returns:
        The configuration to continue with: that given, but a run that has left out the incomplete
        last batch of its epochs, as was the default once, still does.

    Raises:
        UserError: the folder holds a run with a different configuration.
    """
    if not (run / CONFIG_NAME).exists():
        return config
    before = load_config(run)
    if (before.data.tail, config.data.tail) == ("drop", "pad"):
        data = config.data.model_copy(update={"tail": "drop"})
        config = config.model_copy(update={"data": data})
    changed = conflicts(before, config)
    if changed:
        raise UserError(
            f"{run} holds a run with a different configuration ({'; '.join(changed)}); "
            "set name to start a new one, or restore these values to continue it"
        )
    return config


def prepare_folder(config: Config, run: Path, step: int | None) -> None:
    """Write `config.yaml`, and remove metrics from `step` on: those steps are repeated."""
    write_text(run / CONFIG_NAME, to_yaml(config))
    if step is not None:
        rewind_metrics(run / RECORD_NAME, step)
